"""Decode JPEG-LS and JPEG 2000 in a process of its own, one stream after another from standard input.

CharLS takes ten seconds over some kilobytes of broken stream, and OpenJPEG believes sizes that hide in one, so neither
may run in the job's process. Here the kernel ends them: a timer of processor time, which waiting does not use up, and a
limit on memory. `codecs` runs this file as a script, which is why it imports nothing from the package.
"""

import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import imagecodecs
import numpy
import psutil

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Codec, seconds of processor time, bytes of memory, bytes of the stream that follows.
REQUEST = struct.Struct("<4sdQQ")
#: Dtype, rows, columns, samples and bytes of the array that follows; no bytes where the stream cannot be decoded.
ANSWER = struct.Struct("<4sLLLQ")

CODECS: "dict[bytes, Callable[[bytes], npt.NDArray[np.generic]]]" = {
    b"jls": imagecodecs.jpegls_decode,
    b"j2k": imagecodecs.jpeg2k_decode,
}


def main() -> None:
    """Answer requests until standard input ends."""
    # A copy of the descriptor: standard output itself is redirected in the next line.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing a library prints gets among the answers
    while head := sys.stdin.buffer.read(REQUEST.size):
        codec, seconds, memory, length = REQUEST.unpack(head)
        stream = sys.stdin.buffer.read(length)
        # After the stream is read: waiting for input must count neither as time nor as memory of this image.
        limit(seconds, memory)
        try:
            array = CODECS[codec.rstrip(b"\0")](stream)
        # A stream that cannot be decoded is an answer, not the end of the worker.
        # MemoryError is how the limit on address space shows in Python.
        except (RuntimeError, ValueError, MemoryError):
            array = None
        # Before the answer is written, which may wait for the reader and needs memory of its own.
        limit(0, None)
        if array is None:
            answers.write(ANSWER.pack(b"", 0, 0, 0, 0))
        else:
            # Colour planes that lie one after another come back as a view: its bytes are not in one piece.
            array = numpy.ascontiguousarray(array)
            rows, columns, *samples = array.shape
            answers.write(ANSWER.pack(array.dtype.str.encode(), rows, columns, *(samples or [1]), array.nbytes))
            answers.write(array.data)
        answers.flush()


def limit(seconds: float, memory: int | None) -> None:
    """Allow so much processor time, and so much memory beyond what is held; 0 and None lift the limits again."""
    if sys.platform == "win32":  # it has neither; there a stream that takes for ever is waited for
        return
    import resource

    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends a process that has no handler for it
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Relative to what is mapped now: libraries already map hundreds of megabytes that no image is to blame for.
    soft = hard if memory is None else psutil.Process().memory_info().vms + memory
    # The soft limit alone, which may be raised again for the next image; a lowered hard one may not.
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
