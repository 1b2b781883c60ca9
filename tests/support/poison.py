"""A reader of videos that does to its process what broken decoders do, by the name of the file."""

import os
import time

import numpy as np

from pipelines.records import Frame, Source
from pipelines.settings import FrameSettings
from pipelines.video import read_video


def read(source: Source, settings: FrameSettings) -> list[Frame]:
    """`read_video`, except for files called hangs, aborts or eats."""
    if "hangs" in source.uri:
        time.sleep(3600)
    if "aborts" in source.uri:
        os.abort()
    if "eats" in source.uri:
        hoard = [np.ones(2**24) for _ in range(64)]  # 128 MB each
        time.sleep(len(hoard))
    return read_video(source, settings)
