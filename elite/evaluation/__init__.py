"""Does it work? The paper's metrics, its protocol and its competitors, on the miniature or on Stable Diffusion.

`metrics` and `scoring` say how alike pictures are, `subjects` and `drawing` what is drawn, `protocol` draws and scores
it, `competitors` learn the same subjects in other ways, and `reports` makes the paper's tables.
"""
