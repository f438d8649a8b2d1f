"""What is known of each library: every verdict that is not a plain pass, with its reason. One file a library.

These files import nothing of the libraries, so the table can be read where none of them is installed.
"""
