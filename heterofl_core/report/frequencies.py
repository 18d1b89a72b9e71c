"""What it is worth on WikiText2 to know how often each word occurs, and nothing else; counted by tests."""

OF_ALL_TEXT = 911.7
"""The perplexity of the test text for who knows each word's share of the training text."""

OF_HOLDERS = 2867.6
"""The same for who knows each word's share of its holders' texts only: the logarithms' mean over the clients
that hold the word, as rows of the output layer are averaged. Counted for the paper's partition with seed 0.
"""
