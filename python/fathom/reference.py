"""The definition of the layer in NumPy: a DeepSeek-V4 attention layer over one sequence, one function for each stage.

Written from the specification (shared/spec/attention.md) alone and sharing nothing with the C++ library, so that
agreement of the two means something. Numbers in docstrings are sections of the specification.

  exact   float64, nothing quantised; index keys and queries are Hadamard-rotated all the same
  served  the arithmetic of the model's own inference code (10.1, OFF): bf16 activations, FP8 rows, FP4 index keys

    config  = Config.read("model/config.json")
    weights = layer_weights(read_safetensors("model/model.safetensors"), "layers.2.attn.")
    result  = attention_layer(config, 2, weights, hidden, "served")       # hidden [num_tokens, hidden_size], normed
"""

import json
from dataclasses import dataclass, field, fields

import numpy as np

F32 = np.float32


# ---- Configuration and weights --------------------------------------------------------------------------------------


@dataclass
class Config:
    """Sizes of a model under their native names (1)."""

    dim: int
    n_heads: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    compress_ratios: list
    head_dim: int = 512
    rope_head_dim: int = 64
    window_size: int = 128
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 512
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    original_seq_len: int = 65536
    rope_factor: float = 16.0
    beta_fast: float = 32
    beta_slow: float = 1

    @staticmethod
    def read(path):
        """A config.json in the native form; keys of other parts of the model are passed over."""
        with open(path, encoding="utf-8") as file:
            keys = json.load(file)
        return Config(**{key.name: keys[key.name] for key in fields(Config) if key.name in keys})


@dataclass
class Projection:
    """A weight matrix [out, in]; with `scale`, one factor for each 128x128 tile, its values are E4M3 codes (0.5)."""

    values: np.ndarray
    scale: np.ndarray = None

    def dequantised(self):
        if self.scale is None:
            return self.values
        rows, columns = self.values.shape
        return self.values * np.repeat(np.repeat(self.scale, 128, 0)[:rows], 128, 1)[:, :columns]


def read_safetensors(path):
    """Every tensor of a safetensors file as f32 (integers stay what they are): 8-byte length, JSON header, bytes."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    decode = {
        "F32": lambda raw: np.frombuffer(raw, F32),
        "BF16": lambda raw: (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(F32),
        "F16": lambda raw: np.frombuffer(raw, np.float16).astype(F32),
        "F8_E4M3": lambda raw: E4M3_VALUES[np.frombuffer(raw, np.uint8)],
        "F8_E8M0": lambda raw: np.ldexp(F32(1), np.frombuffer(raw, np.uint8).astype(np.int32) - 127),
        "I32": lambda raw: np.frombuffer(raw, np.int32),
        "I64": lambda raw: np.frombuffer(raw, np.int64),
        "U8": lambda raw: np.frombuffer(raw, np.uint8),
    }
    return {
        name: decode[entry["dtype"]](data[slice(*entry["data_offsets"])]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def layer_weights(tensors, prefix):
    """The weights of one layer by their native names (8); `prefix` is "layers.N.attn." or "mtp.0.attn."."""
    own = {name[len(prefix) :]: value.astype(F32) for name, value in tensors.items() if name.startswith(prefix)}
    weights = {}
    for name, value in own.items():
        if name.endswith(".weight") and value.ndim == 2:
            weights[name] = Projection(value, own.get(name[: -len("weight")] + "scale"))
        elif not name.endswith(".scale"):
            weights[name] = value
    return weights


# ---- Number formats and quantisers (0.2, 0.3) -----------------------------------------------------------------------


def round_bf16(v):
    """Nearest bfloat16, ties to even, as f32."""
    v = np.ascontiguousarray(v, F32)
    bits = v.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(F32)
    return np.where(np.isnan(v), v, rounded)


def round_e4m3(v):
    """Nearest E4M3 of values within +-448, ties to even."""
    v = np.asarray(v, np.float64)
    _, exponent = np.frexp(v)  # |v| = m * 2^exponent, m in [0.5, 1)
    step = np.ldexp(1.0, np.maximum(exponent - 1, -6) - 3)
    return (np.rint(v / step) * step).astype(F32)


def _e4m3_value(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return np.nan
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if code >> 7 else size


E4M3_VALUES = np.array([_e4m3_value(code) for code in range(256)], F32)
E2M1_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], F32)


def ceil_log2(v):
    """E(v): the exponent field - 127, plus one if the mantissa is not zero."""
    bits = np.asarray(v, F32).view(np.uint32)
    return ((bits >> 23) & 255).astype(np.int32) - 127 + ((bits & 0x7FFFFF) != 0)


def _blocks(v, size):
    """The last axis in blocks, the last of them filled up with zeros."""
    count = -(-v.shape[-1] // size)
    padded = np.zeros(v.shape[:-1] + (count * size,), F32)
    padded[..., : v.shape[-1]] = v
    return padded.reshape(v.shape[:-1] + (count, size))


def quantise_q8(v, group):
    """Q8: E4M3 codes, as values, and one power-of-two scale for each block of `group`."""
    v = np.asarray(v, F32)
    blocks = _blocks(v, group)
    largest = np.maximum(np.abs(blocks).max(-1), F32(1e-4))
    scale = np.ldexp(F32(1), ceil_log2(largest * F32(1 / 448)))
    codes = round_e4m3(np.clip(blocks / scale[..., None], -448, 448))
    return codes.reshape(v.shape[:-1] + (-1,))[..., : v.shape[-1]], scale


def fake_q8(v, group):
    """Quantised, dequantised and rounded to bf16."""
    codes, scale = quantise_q8(v, group)
    return round_bf16(codes * np.repeat(scale, group, -1)[..., : codes.shape[-1]])


def fake_q4(v):
    """Q4 in blocks of 32: E2M1 codes (ties to even), power-of-two scales, dequantised and rounded to bf16."""
    v = np.asarray(v, F32)
    blocks = _blocks(v, 32)
    largest = np.maximum(np.abs(blocks).max(-1), F32(6 * 2.0**-126))
    scale = np.ldexp(F32(1), ceil_log2(largest * F32(1 / 6)))[..., None]
    size = np.minimum(np.abs(blocks / scale), F32(6))
    # Midpoints of 0, .5, 1, 1.5, 2, 3, 4, 6; a tie goes to the even code.
    code = (
        (size > 0.25).astype(int)
        + (size >= 0.75)
        + (size > 1.25)
        + (size >= 1.75)
        + (size > 2.5)
        + (size >= 3.5)
        + (size > 5)
    )
    return round_bf16(np.copysign(E2M1_VALUES[code] * scale, blocks)).reshape(v.shape)


# ---- Rotations (0.6, 0.7) -------------------------------------------------------------------------------------------


def rope_frequencies(config, ratio):
    """The 32 frequencies of a layer, each step rounded to f32: plain on window layers, YaRN on the others."""
    dims = config.rope_head_dim
    theta = config.compress_rope_theta if ratio else config.rope_theta
    exponents = (np.arange(0, dims, 2) / dims).astype(F32)
    base = F32(1) / (np.float64(theta) ** exponents.astype(np.float64)).astype(F32)
    if not ratio or not config.original_seq_len:
        return base

    def correction(turns):
        return dims * np.log(config.original_seq_len / (2 * np.pi * turns)) / (2 * np.log(theta))

    low, high = max(np.floor(correction(config.beta_fast)), 0), min(np.ceil(correction(config.beta_slow)), dims - 1)
    keep = F32(1) - np.clip((np.arange(dims // 2, dtype=F32) - F32(low)) / F32(high - low), 0, 1).astype(F32)
    return ((base / F32(config.rope_factor)) * (F32(1) - keep) + base * keep).astype(F32)


def rope_table(frequencies, positions):
    """cos and sin [len(positions), 32] in f32, of the angle rounded to f32: at long context that is the model."""
    angle = (np.asarray(positions).astype(F32)[:, None] * frequencies).astype(F32).astype(np.float64)
    return np.cos(angle).astype(F32), np.sin(angle).astype(F32)


def hadamard(v):
    """Walsh-Hadamard rotation of the last axis in natural order; its own inverse."""
    size = v.shape[-1]
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (v @ matrix.astype(v.dtype)) * v.dtype.type(size**-0.5)


# ---- The layer's stages ---------------------------------------------------------------------------------------------


class Arithmetic:
    """What the two numerics differ in, and the pieces that several stages use."""

    def __init__(self, config, layer, weights, numerics):
        if numerics not in ("exact", "served"):
            raise ValueError(f"numerics is {numerics!r}, expected 'exact' or 'served'")
        self.config, self.weights, self.served = config, weights, numerics == "served"
        self.ratio = config.compress_ratios[layer]
        self.real = F32 if self.served else np.float64
        self.round = round_bf16 if self.served else lambda v: v
        self.frequencies = rope_frequencies(config, self.ratio)

    def linear(self, x, name):
        """Linear8 (0.5): with FP8 weights activations are quantised per 128, products added up block by block."""
        weight = self.weights[name]
        if not self.served:
            return x @ weight.dequantised().astype(np.float64).T
        if weight.scale is None:
            return round_bf16(x.astype(F32) @ round_bf16(weight.values).T)
        codes, scale = quantise_q8(x, 128)
        rows, columns = weight.values.shape
        total = np.zeros((x.shape[0], rows), F32)
        for block in range(-(-columns // 128)):
            cut = slice(block * 128, min(columns, block * 128 + 128))
            tile = np.repeat(weight.scale[:, block], 128)[:rows]
            total += (codes[:, cut] @ weight.values[:, cut].T) * (scale[:, block, None] * tile)
        return round_bf16(total)

    def wide(self, x, name):
        """A product whose result is not rounded: the compressors' and the index weights'."""
        return x @ self.weights[name].dequantised().astype(self.real).T

    def norm(self, v, name):
        """RMSNorm with a weight (0.4)."""
        v = v.astype(self.real)
        scaled = v * (1 / np.sqrt((v * v).mean(-1, keepdims=True) + self.real(self.config.norm_eps)))
        return self.round(self.weights[name].astype(self.real) * scaled)

    def rotate(self, v, positions, inverse=False):
        """Rotates adjacent pairs of the last 64 elements; v is [num_tokens, ..., dim] (0.6)."""
        dims = self.config.rope_head_dim
        cos, sin = (
            table.reshape((len(positions),) + (1,) * (v.ndim - 2) + (dims // 2,)).astype(self.real)
            for table in rope_table(self.frequencies, positions)
        )
        if inverse:
            sin = -sin
        even, odd = v[..., -dims::2], v[..., -dims + 1 :: 2]
        out = v.copy()
        out[..., -dims::2] = self.round(even * cos - odd * sin)
        out[..., -dims + 1 :: 2] = self.round(even * sin + odd * cos)
        return out

    def quantise_row(self, row):
        """What a cache keeps of a KV row or an entry: E4M3 per 64 elements, the rotated ones in bf16 (2, 3.3)."""
        if not self.served or row.size == 0:
            return row
        nope = self.config.head_dim - self.config.rope_head_dim
        return np.concatenate([fake_q8(row[..., :nope], 64), row[..., nope:]], -1)

    def visible(self, positions):
        """NV(p): entries that a query at p sees (0.1)."""
        return (np.asarray(positions) + 1) // self.ratio


def project(math, x, positions):
    """Stage project (2): queries [T, H, 512], KV rows [T, 512], and the query latent that the indexer shares."""
    config = math.config
    latent = math.norm(math.linear(x, "wq_a.weight"), "q_norm.weight")
    q = math.linear(latent, "wq_b.weight").reshape(len(x), config.n_heads, config.head_dim)
    if math.served:
        mean = round_bf16(round_bf16(q * q).mean(-1, keepdims=True))
        q = round_bf16(q * round_bf16(1 / np.sqrt(round_bf16(mean + F32(config.norm_eps)))))
    else:
        q = q / np.sqrt((q * q).mean(-1, keepdims=True) + config.norm_eps)
    kv = math.norm(math.linear(x, "wkv.weight"), "kv_norm.weight")
    return math.rotate(q, positions), math.quantise_row(math.rotate(kv, positions)), latent


def compress(math, x, prefix, width):
    """Stage compress (3): entries before quantisation, and the state rows (kvp, sc) of every token.

    A CSA entry pools the carry half of the group before and the own half of its own group; an HCA entry its own group.
    """
    ratio = math.ratio
    kvp = math.wide(x, prefix + "wkv.weight")
    sc = (
        math.wide(x, prefix + "wgate.weight")
        + math.weights[prefix + "ape"].astype(math.real)[np.arange(len(x)) % ratio]
    )
    pooled = np.zeros((len(x) // ratio, width), math.real)
    for entry in range(len(pooled)):
        own = slice(entry * ratio, entry * ratio + ratio)
        values, scores = kvp[own, -width:], sc[own, -width:]
        if ratio == 4 and entry > 0:
            before = slice(entry * ratio - ratio, entry * ratio)
            values = np.concatenate([kvp[before, :width], values])
            scores = np.concatenate([sc[before, :width], scores])
        p = np.exp(scores - scores.max(0))
        pooled[entry] = (p * values).sum(0) / p.sum(0)
    entries = math.norm(math.round(pooled), prefix + "norm.weight")
    return math.rotate(entries, np.arange(len(entries)) * ratio), kvp, sc


def index_keys(math, x):
    """The indexer's own compressor, Hadamard and FP4 (3.3)."""
    keys, _, _ = compress(math, x, "indexer.compressor.", math.config.index_head_dim)
    keys = math.round(hadamard(keys))
    return fake_q4(keys) if math.served and keys.size else keys


def index_scores(math, x, latent, keys, positions):
    """Scores of every token over all entries, -inf where not visible (4.1, 4.2).

    `served` gives two: what the reference computes, in bf16 tensors, and the same in f32, which is what Fathom keeps.
    """
    config = math.config
    heads, dim = config.index_n_heads, config.index_head_dim
    q = math.linear(latent, "indexer.wq_b.weight").reshape(len(x), heads, dim)
    q = math.round(hadamard(math.rotate(q, positions)))
    weights = math.wide(x, "indexer.weights_proj.weight")
    factor = math.real(dim**-0.5 * heads**-0.5)
    if math.served:
        q, weights = fake_q4(q), round_bf16(round_bf16(weights) * factor)
    else:
        weights = weights * factor
    plain = np.zeros((len(x), len(keys)), math.real)
    rounded = np.zeros_like(plain)
    for head in range(heads):
        dots = q[:, head] @ keys.T
        plain += np.maximum(dots, 0) * weights[:, head, None]
        rounded += math.round(np.maximum(math.round(dots), 0) * weights[:, head, None])
    hidden = np.arange(len(keys)) >= math.visible(positions)[:, None]
    return np.where(hidden, -np.inf, math.round(rounded)), np.where(hidden, -np.inf, plain)


def pick(scores, visible, topk):
    """The best entries of every token, ascending; ties go to the smaller entry (4.2)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return [np.sort(order[token, : min(topk, count)]) for token, count in enumerate(visible)]


def attend(q, rows, mask, attn_sink, round_to=lambda v: v):
    """Stage attend (6.2): (out [T, H, dim], lse [T, H]) over rows [N, dim] where mask [T, N]; natural log, no sink.

    A query that sees nothing gives 0 and -inf. `round_to` rounds probabilities and results.
    """
    real = q.dtype.type
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, q.dtype)
    seen = mask.any(1)
    for head in range(q.shape[1]):
        logits = np.where(mask, (q[:, head] @ rows.T) * real(q.shape[2] ** -0.5), -np.inf)[seen]
        if logits.size == 0:
            continue
        top = logits.max(1, keepdims=True)
        p = np.exp(logits - top)
        total = p.sum(1, keepdims=True)
        with np.errstate(over="ignore"):
            sink = 0 if attn_sink is None else np.exp(real(attn_sink[head]) - top)
        out[seen, head] = round_to((round_to(p) @ rows) / (total + sink))
        lse[seen, head] = (top + np.log(total))[:, 0]
    return out, lse


def output(math, o, positions):
    """Stage output (6.3): the rotation undone at the query's position, groups of heads projected down, then up."""
    config = math.config
    grouped = math.rotate(o, positions, inverse=True).reshape(len(o), config.o_groups, -1)
    wo_a = math.round(math.weights["wo_a.weight"].dequantised().astype(math.real))
    wo_a = wo_a.reshape(config.o_groups, config.o_lora_rank, -1)
    z = math.round(np.einsum("tgk,grk->tgr", grouped, wo_a, optimize=True))
    return math.linear(z.reshape(len(o), -1).astype(math.real), "wo_b.weight")


@dataclass
class Result:
    """What a layer gives, and what happened inside."""

    output: np.ndarray
    attn_out: np.ndarray  # [T, H, 512], before the inverse rotation
    lse: np.ndarray  # [T, H]
    window: np.ndarray  # KV rows of all tokens, as cached
    entries: np.ndarray = None  # as cached
    index_keys: np.ndarray = None  # as cached
    index_scores: np.ndarray = None  # bf16 values in served
    index_scores_f32: np.ndarray = None
    picks: list = field(default_factory=list)  # entries of every token, by the f32 scores
    kvp: np.ndarray = None  # state rows of all tokens: values
    sc: np.ndarray = None  # and scores, ape added


def attention_layer(config, layer, weights, hidden, numerics="exact", picks=None):
    """One sequence from its first token (9.1). `picks` replaces the indexer's own: a list of entries for each token."""
    math = Arithmetic(config, layer, weights, numerics)
    positions = np.arange(len(hidden))
    x = math.round(np.asarray(hidden, F32)).astype(math.real)
    q, kv, latent = project(math, x, positions)
    back = positions[:, None] - positions
    rows, mask = kv, (back >= 0) & (back < config.window_size)
    inside = {}
    if math.ratio:
        entries, inside["kvp"], inside["sc"] = compress(math, x, "compressor.", config.head_dim)
        inside["entries"] = math.quantise_row(entries)
        seen = np.arange(len(entries)) < math.visible(positions)[:, None]
        if math.ratio == 4:
            keys = index_keys(math, x)
            scores, plain = index_scores(math, x, latent, keys, positions)
            own = pick(plain, math.visible(positions), config.index_topk)
            inside.update(index_keys=keys, index_scores=scores, index_scores_f32=plain, picks=own)
            chosen = np.zeros_like(seen)
            for token, row in enumerate(own if picks is None else picks):
                chosen[token, row] = True
            seen &= chosen
        rows, mask = np.concatenate([kv, inside["entries"]]), np.concatenate([mask, seen], 1)
    o, lse = attend(q.astype(math.real), rows.astype(math.real), mask, weights["attn_sink"], math.round)
    return Result(output(math, o, positions), o, lse, kv, **inside)
