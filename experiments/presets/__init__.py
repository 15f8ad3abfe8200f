"""One file a config: `get_config()` under a docstring that is its lab note."""
