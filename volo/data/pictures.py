"""Images of any number of channels as pictures to look at."""


def shown_channels(in_chans: int) -> list[int]:
    """Which channels a picture has for red, green and blue: gray is the same in each, and of more the first three are
    taken, or of two the first, as gray."""
    return [0, 1, 2] if in_chans >= 3 else [0, 0, 0]


def shown_in_words(in_chans: int) -> str:
    """A sentence on the channels that pictures do not show; empty if they show all."""
    if in_chans in (1, 3):
        return ""
    shown = "the first, as gray" if in_chans == 2 else "the first three, as red, green and blue"
    return f"Of the {in_chans} channels, pictures show {shown}."
