"""``thermae demo``: the main job on real input, end to end, verified byte for byte, in under a minute.

``corpus`` is the input; ``worker`` what runs in other processes and ``group`` how they are started and
killed; ``written`` what writers leave behind and how it is verified; ``steps`` the story; ``report`` its
table; ``run`` all of it.
"""
