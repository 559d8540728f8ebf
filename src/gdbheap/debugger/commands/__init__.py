"""The commands, one file each: parse the arguments, build the model, call the core, render."""
