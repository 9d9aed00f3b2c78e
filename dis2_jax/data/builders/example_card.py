"""A commented card for `dis2 data prepare folder`, printed by `--example-card`."""

EXAMPLE_CARD = """\
# A card tells `dis2 data prepare folder` what your files are. Paths are relative to --source.
#     dis2 data prepare folder --source DIR --card card.toml --out OUT
name = "my_city"                 # lower case, digits and _
description = "Orthophotos and heights of my city, 2023"
licence = "CC-BY-4.0"
ground_sampling_distance = 0.2   # metres per pixel
tile = 256                       # or [height, width]; multiples of 16
overlap = 64                     # pixels that neighbouring TRAINING tiles share
test_overlap = 0                 # the same of test tiles; `dis2 evaluate` averages them in its scene scores

# One block per modality (at least two), in the order the model shall see them. What `*` stands for is the
# scene's id: photos/a7_rgb.tif and heights/a7.tif are both scene "a7". PNG or GeoTIFF, any number type.
[[modality]]
name = "rgb"
files = "photos/*_rgb.tif"
kind = "optical"                 # optical | sar | height | other: only optical gets colour noise in training
bands = [1, 2, 3]                # optional; bands count from 1; default: all
band_names = ["red", "green", "blue"]   # optional

[[modality]]
name = "ndsm"
files = "heights/*.tif"
kind = "height"
unit = "m"
nodata = -9999                   # optional (default: what the GeoTIFF says); nan is allowed
scale = 0.01                     # optional: stored value = scale * file value + offset, as float32
offset = 0.0
optional = true                  # scenes without this file are used, with the modality marked absent

[label]
files = "labels/*.png"           # one band of codes, a palette image, or RGB colours
ignore = [255]                   # codes (or [r, g, b] colours) that take part in nothing; a GeoTIFF's
                                 # nodata value is ignored too, unless it is a class's code
unknown = "refuse"               # what other codes mean: refuse (default, lists them) | ignore

[[class]]                        # at least two
name = "road"
code = 1                         # or several, `codes = [1, 4]`, or a colour, `code = [255, 255, 255]`
color = [255, 255, 255]          # optional, for pictures

[[class]]
name = "building"
code = 2
color = [0, 0, 255]

# The split: exactly one of [split.list], [split.pattern], [split.region]. `test` may be left out.
[split.pattern]                  # scene ids by pattern
train = ["a*", "b*"]
validation = ["c1", "c2"]
test = ["c*"]                    # where several fit, validation comes before test, and test before train

# [split.list]                   # scene ids, or the name of a text file with one id per line
# train = "train.txt"
# validation = ["c1", "c2"]

# [split.region]                 # parts of every scene: [top, left, bottom, right] as fractions
# validation = [0.0, 0.75, 0.5, 1.0]
# test = [0.5, 0.75, 1.0, 1.0]   # train gets the rest
"""
