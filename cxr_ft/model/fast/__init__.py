"""GIT's own arithmetic, done once and no more: what transformers computes, without what nobody reads.

The functions here hold a transformers model and call its modules in transformers' order, so names, adapters and
`save_pretrained` stay as they are, and transformers' own forward is what the tests hold them against.

    walk        is every module that we do not call itself as transformers made it? Else its own forward runs
    vision      images -> image tokens, the part that a frozen vision tower makes constant
    decoder     image tokens and text -> states, at the positions that count
    generation  greedy, sampled and beam search on one shared reading of image and prompt
    attention, dropout, linear    the three kernels

Shapes: B batch, F images an example, I image tokens, T text tokens, D width, H heads, d width of a head, V vocabulary,
N positions that count, K beams or sentences, P tokens of a prefix.
"""
