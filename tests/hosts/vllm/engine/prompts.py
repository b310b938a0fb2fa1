"""What every engine is asked: each prompt alone, then all of a batch at once."""

# Around each limit: the threshold (16), an odd count, a whole batch (64), and more than one.
SINGLES = (6, 5, 32, 31, 15, 16, 17, 2, 1)
BATCH = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 63, 64, 101)
# The one that is sent to a server as well.
SERVED = list(range(3, 40))
TOKENS = 4  # that each answer has
