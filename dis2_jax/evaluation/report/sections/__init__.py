"""The report's sections: each a function from ``Inputs`` to a ``Section``. What is missing costs one line."""
