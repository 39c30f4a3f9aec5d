"""A hash of the bits of many tensors in one launch, to compare replicas that must be the same."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from numguard_kernels.availability import require
from numguard_kernels.launching import launch
from numguard_kernels.pointers import PointerTable, is_aligned, pointer_table
from numguard_kernels.sample_tensors import FLOATING_DTYPES, LAYOUTS, random_vector, sample
from numguard_kernels.spec import Arguments, Case, Compilation, KernelSpec, Limits

#: Words of 4 bytes that share a block weight.
WORDS_PER_BLOCK: Final = 1024
#: Blocks that one program hashes.
BLOCKS_PER_PIECE: Final = 16
NUM_THREADS: Final = 128


class Checksums(NamedTuple):
    """One hash for each tensor.

    Attributes
    ----------
    hashes
        int64, (tensors,), on the device of the tensors.
    """

    hashes: Tensor


@triton.jit
def _mixed_32(bits):
    """Scatter the bits of a uint32 (the finalizer of MurmurHash3, a bijection)."""
    bits ^= bits >> 16
    bits *= 0x85EBCA6B
    bits ^= bits >> 13
    bits *= 0xC2B2AE35
    return bits ^ (bits >> 16)


@triton.jit
def _lane_weight(lane):
    """The odd 64-bit weight of a position within its block."""
    low = _mixed_32(lane * 2 + 1).to(tl.uint64)
    high = _mixed_32(lane * 2 + 0x9E3779B9).to(tl.uint64)
    return (high << 32) | low | 1


@triton.jit
def hash_pieces(
    addresses_ptr,
    sizes_ptr,
    pieces_ptr,
    hashes_ptr,
    WORDS: tl.constexpr,
    BLOCKS: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Add one piece's share to the hash of its tensor; pieces of ``BLOCKS`` blocks of ``WORDS`` words."""
    piece = tl.program_id(0).to(tl.int64)
    tensor = tl.load(pieces_ptr + 2 * piece)
    first_block = tl.load(pieces_ptr + 2 * piece + 1) * BLOCKS
    num_words = tl.load(sizes_ptr + tensor)
    words_ptr = tl.load(addresses_ptr + tensor).to(tl.pointer_type(tl.uint32))
    if ALIGNED:
        words_ptr = tl.multiple_of(words_ptr, 16)
    lane = tl.arange(0, WORDS)
    sums = tl.zeros((WORDS,), tl.uint64)
    num_full = tl.minimum(num_words // WORDS - first_block, BLOCKS)
    for step in range(num_full):
        block = first_block + step
        weight = (_mixed_32(block.to(tl.uint32)) | 1).to(tl.uint64)
        words = tl.load(words_ptr + block * WORDS + lane)
        sums += words.to(tl.uint64) * weight
    block = num_words // WORDS
    if (block >= first_block) & (block < first_block + BLOCKS):
        weight = (_mixed_32(block.to(tl.uint32)) | 1).to(tl.uint64)
        words = tl.load(words_ptr + block * WORDS + lane, mask=block * WORDS + lane < num_words, other=0)
        sums += words.to(tl.uint64) * weight
    total = tl.sum((sums * _lane_weight(lane.to(tl.uint32))).to(tl.int64, bitcast=True), 0)
    tl.atomic_add(hashes_ptr + tensor, total, sem="relaxed")


def replica_checksum(tensors: Sequence[Tensor]) -> Checksums:
    """Return a hash of the bits of each tensor: equal bits give equal hashes on every device, whatever the launch.

    Parameters
    ----------
    tensors
        Any dtype, shape and strides, on one device; the order of the elements counts, not their strides.

    Raises
    ------
    ValueError
        Where the tensors are on different devices.
    KernelUnavailable
        Where the kernels cannot run on the device.

    Notes
    -----
    ``sum_i word_i * Z(i // 1024) * V(i % 1024) mod 2**64`` over the 4-byte words of the tensor, the last one filled
    with zeros, with odd weights Z (32 bits) and V (64 bits). A change of one word always changes the hash, since
    odd weights are invertible; two unlike tensors that were not made to collide agree with a probability near
    ``2**-32``. Non-contiguous tensors are copied first; no bits are rounded or compared as numbers, so that NaN
    payloads and the sign of zero count.
    """
    if not tensors:
        return Checksums(torch.zeros(0, dtype=torch.int64))
    device = require("replica_checksum", *(x.device for x in tensors))
    words = [words_of(x) for x in tensors]
    hashes = torch.zeros(len(words), dtype=torch.int64, device=device)
    for aligned in (True, False):
        chosen = [index for index, x in enumerate(words) if x.numel() and is_aligned(x) == aligned]
        if not chosen:
            continue
        table = pointer_table(
            [[words[index] for index in chosen]], elements_per_piece=WORDS_PER_BLOCK * BLOCKS_PER_PIECE
        )
        part = torch.zeros(len(chosen), dtype=torch.int64, device=device)
        hash_table(table, part, aligned=aligned)
        hashes[torch.tensor(chosen, device=device)] = part
    return Checksums(hashes)


def hash_table(table: PointerTable, hashes: Tensor, *, aligned: bool) -> None:
    """Add the hashes of a table's tensors of words into ``hashes``, int64 zeros, in one launch.

    Parameters
    ----------
    table
        Of one list of int32 tensors, cut into pieces of ``WORDS_PER_BLOCK * BLOCKS_PER_PIECE``.
    hashes
        (tensors,).
    aligned
        Whether every tensor begins at a multiple of 16 bytes.
    """
    launch(
        hash_pieces,
        (table.num_pieces,),
        table.addresses,
        table.sizes,
        table.pieces,
        hashes,
        WORDS=WORDS_PER_BLOCK,
        BLOCKS=BLOCKS_PER_PIECE,
        ALIGNED=aligned,
        num_threads=NUM_THREADS,
        device=hashes.device,
    )


def words_of(x: Tensor) -> Tensor:
    """Return the bits of a tensor as int32 words, without a copy where it is contiguous and full of whole words."""
    flat = x.detach().contiguous().reshape(-1)
    if flat.is_conj() or flat.is_neg():
        flat = flat.resolve_conj().resolve_neg()
    octets = flat.view(torch.uint8)
    whole = octets.numel() % 4 == 0 and octets.data_ptr() % 4 == 0
    if not whole:
        octets = torch.nn.functional.pad(octets, (0, -octets.numel() % 4))
    return octets.view(torch.int32)


def reference_checksum(tensors: Sequence[Tensor]) -> Checksums:
    """Return what :func:`replica_checksum` returns, by plain torch in 64-bit integers that wrap around."""
    return Checksums(torch.stack([_reference_hash(words_of(x)) for x in tensors]) if tensors else torch.zeros(0).long())


def _reference_hash(words: Tensor) -> Tensor:
    index = torch.arange(words.numel(), device=words.device)
    block_weight = _reference_mixed(index // WORDS_PER_BLOCK) | 1
    lane = index % WORDS_PER_BLOCK
    low = _reference_mixed(lane * 2 + 1)
    high = _reference_mixed((lane * 2 + 0x9E3779B9) & 0xFFFFFFFF)
    return ((words.long() & 0xFFFFFFFF) * block_weight * ((high << 32) | low | 1)).sum()


def _reference_mixed(bits: Tensor) -> Tensor:
    mask = 0xFFFFFFFF
    bits = bits & mask
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x85EBCA6B) & mask
    bits = bits ^ (bits >> 13)
    bits = (bits * 0xC2B2AE35) & mask
    return bits ^ (bits >> 16)


def _cases() -> tuple[Case, ...]:
    def mixed(device: torch.device) -> Arguments:
        shapes = ((7,), (33, 65), (1,), (0,), (), (3, 5, 7))
        made = [
            sample(shape, dtype, seed=seed).to(device) for seed, dtype in enumerate(FLOATING_DTYPES) for shape in shapes
        ]
        return ([*made, torch.arange(1025, device=device), torch.ones(5, dtype=torch.bool, device=device)],), {}

    def laid_out(device: torch.device) -> Arguments:
        values = sample((9, 130), torch.float32, "both_infinities").to(device)
        return ([layout(values) for layout in LAYOUTS.values()],), {}

    def several_pieces(device: torch.device) -> Arguments:
        return ([sample((WORDS_PER_BLOCK * BLOCKS_PER_PIECE + 3,), torch.float32, "zeros").to(device)],), {}

    return (
        Case(name="all dtypes and sizes", make=mixed),
        Case(name="layouts", make=laid_out),
        Case(name="several pieces", make=several_pieces),
    )


SPEC: Final = KernelSpec(
    name="replica_checksum",
    launcher=replica_checksum,
    reference=reference_checksum,
    tolerance=lambda expected, tensors: {},
    cases=_cases(),
    compilations=(
        Compilation(
            name="aligned",
            function=hash_pieces,
            signature={"addresses_ptr": "*i64", "sizes_ptr": "*i64", "pieces_ptr": "*i64", "hashes_ptr": "*i64"},
            constexprs={"WORDS": WORDS_PER_BLOCK, "BLOCKS": BLOCKS_PER_PIECE, "ALIGNED": True},
            num_threads=NUM_THREADS,
            elements_per_turn=WORDS_PER_BLOCK,
            bytes_per_element=4.0,
            limits={"sm_90": Limits(instructions_per_element=15.88, registers=58)},
        ),
    ),
    benchmark=lambda num_elements, dtype, device: (([random_vector(num_elements, dtype, device)],), {}),
    bytes_moved=lambda tensors: sum(x.numel() * x.element_size() for x in tensors),
    flops=lambda tensors: 0,
    rivals={"torch sum of words": lambda tensors: [words_of(x).sum() for x in tensors]},
)
