from collections.abc import Sequence

from lb.shared.segment import Segment

class Groups:
    count: int
    group_of: tuple[int, ...]

    def __init__(self, segment: Segment, slots: Sequence[int], groups: Sequence[int], keyed: bool) -> None: ...
    def next_order(self, key: int) -> tuple[list[int], int]: ...
    def share_of(self, group: int) -> int: ...
