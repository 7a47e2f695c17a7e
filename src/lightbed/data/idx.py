"""MNIST's and Fashion-MNIST's file format: idx, gzipped or not."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightbed.errors import UserError

_DTYPES: dict[int, Any] = {8: np.uint8, 9: np.int8, 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Path) -> Tensor:
    """The array in an idx file (Y. LeCun's format): two zero bytes, type, rank, big-endian sizes, data.

    Args:
        path: the file; a name that ends in .gz is unpacked in memory, nothing is written.

    Raises:
        UserError: the file is truncated or not idx.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, rank = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        array = np.frombuffer(content, dtype=_DTYPES[kind], offset=4 + 4 * rank)
        if zeros:
            raise ValueError("it does not begin with two zero bytes")
        return torch.from_numpy(array.reshape(shape).astype(array.dtype.newbyteorder("="), copy=True))
    except (OSError, EOFError, zlib.error, struct.error, KeyError, ValueError) as error:
        raise UserError(f"{path} is no whole idx file ({error}); delete it to download it again") from error
