"""The contract of module types: the sites of a base, what a module sees there, and the classes that it may extend."""
