"""The catalogue of faults: what happens in a training and in a server when something around them is wrong."""
