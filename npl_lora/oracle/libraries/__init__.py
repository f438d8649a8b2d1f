"""The real libraries that ship as subjects: how each is asked, and what is known of each.

    table       one row a library; what reads it: the worker, the command line, the matrix, the tests
    library     what a row holds
    NAME        asks the library, a function for each contract; imported only in the worker
    known/NAME  every verdict of the library that is not a plain pass, with its reason
    matrix      what all of them do, as data and as Markdown

A library is asked through its own layers, autograd and training loop.
"""
