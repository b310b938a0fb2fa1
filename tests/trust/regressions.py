"""Seeds of drawn graphs on which something was once wrong; each is run again for ever.

A seed names one graph as long as the generator draws as it does: what a seed found is also kept by
hand in the tests of the room where the fault was.
"""

SEEDS: tuple[int, ...] = (
    # A sum of two groups' values: where its rows are not worth having in the first's, they may be
    # in the second's, which only a second run found.
    815725586,
    815727661,
    815728515,
    815729129,
    815729585,
    815731200,
    # One row a rank, cut out of a full value, was not told from what is the same for every row.
    815729629,
)
