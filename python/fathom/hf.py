"""fathom.hf.patch(model): the attention of a transformers `deepseek_v4` model through Fathom's paged layer.

    model = AutoModelForCausalLM.from_pretrained(...).eval()
    fathom.hf.patch(model)
    with torch.no_grad():
        model.generate(...)

Prefill, chunked prefill, decode, generate with any sampling and with beams, f32 (numerics "exact") and bf16 ("served": the
rows and index keys that the model was trained with), FP8 projections with power-of-two scales of 128 x 128 tiles. What it
cannot do it refuses by name: training, gradients, padded batches, custom masks, attention weights, caches that are no
DynamicCache, projections quantised otherwise or adapted, unknown configuration keys. Weights are used where they lie; replace them in place, or patch again.
"""

import collections
import functools

from ._layer import Attention, Cache
from ._ops import capacity
from ._views import dtype_name

__all__ = ["patch", "unpatch"]

# Weights of the op "layer" by their place in transformers' attention module.
_WEIGHTS = {
    "wq_a": "q_a_proj.weight",
    "q_norm": "q_a_norm.weight",
    "wq_b": "q_b_proj.weight",
    "wkv": "kv_proj.weight",
    "kv_norm": "kv_norm.weight",
    "attn_sink": "sinks",
    "wo_a": "o_a_proj.weight",
    "wo_b": "o_b_proj.weight",
}
_COMPRESSOR = {
    "compress_wkv": "compressor.kv_proj.weight",
    "compress_wgate": "compressor.gate_proj.weight",
    "compress_ape": "compressor.position_bias",
    "compress_norm": "compressor.kv_norm.weight",
}
_INDEXER = {
    "index_wq_b": "compressor.indexer.q_b_proj.weight",
    "index_weights_proj": "compressor.indexer.scorer.weights_proj.weight",
    "index_wkv": "compressor.indexer.kv_proj.weight",
    "index_wgate": "compressor.indexer.gate_proj.weight",
    "index_ape": "compressor.indexer.position_bias",
    "index_norm": "compressor.indexer.kv_norm.weight",
}
_PROJECTIONS = ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "index_wq_b")  # those that may be FP8
_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def _refuse(what):
    raise NotImplementedError(f"fathom.hf: {what}")


def _weight_names(ratio):
    return {**_WEIGHTS, **(_COMPRESSOR if ratio else {}), **(_INDEXER if ratio == 4 else {})}


def _weights_of(module):
    """A module's weights by their names in the op "layer"; scales of FP8 projections as the powers of two that they are."""
    import torch

    weights = {}
    for name, path in _weight_names(_RATIOS[module.layer_type]).items():
        weights[name] = module.get_parameter(path).detach()
        if dtype_name(weights[name].dtype) == "e4m3":
            scale = module.get_parameter(path + "_scale_inv").detach()
            weights[name + "_scale"] = scale.to(torch.float8_e8m0fnu)
    weights["attn_sink"] = weights["attn_sink"].float()  # a copy, unless it is f32 already
    return weights


class _Pages:
    """The sequences of one forward cache in the layers of one kind: rows of the batch are sequences of a page pool."""

    def __init__(self, patched, group):
        self.patched, self.group, self.layers = patched, group, patched.groups[group]
        self.cache, self.sequences, self.step, self.reserved = None, [], None, (0, 0, 0)

    def begin(self, batch, tokens, device):
        """Room for `tokens` further tokens in each row; a step that an error left open is taken back."""
        self.abandon()
        if self.sequences and len(self.sequences) != batch:
            _refuse(f"the batch has {batch} rows, the cache {len(self.sequences)}")
        length = self.cache.length(self.sequences[0]) if self.sequences else 0
        self._reserve(batch, batch * tokens, length + tokens, device)
        self.step = self.cache.step(self.sequences, [tokens] * batch)
        self.step.__enter__()

    def abandon(self):
        if self.step is not None:
            step, self.step = self.step, None
            step.__exit__(RuntimeError, None, None)

    def commit(self):
        step, self.step = self.step, None
        step.__exit__(None)

    def _reserve(self, batch, step_tokens, length, device):
        """Pools and plans have fixed sizes: grow by doubling, rows taken along as snapshots."""
        seqs, most, longest = self.reserved
        if batch <= seqs and step_tokens <= most and length <= longest:
            if not self.sequences:
                self.sequences = [self.cache.add() for _ in range(batch)]
            return
        longest = max(longest, capacity(length + self.patched.reserve), 256)
        self.reserved = (max(seqs, batch), max(most, capacity(step_tokens), 64), longest)
        rows = [self.cache.snapshot(sequence) for sequence in self.sequences]
        self.cache = None  # the old pool goes before the new one comes
        attentions = self.patched.attentions(self.group, *self.reserved, device)
        # Beams fork every row before the old ones go.
        self.cache = Cache([attentions[layer] for layer in self.layers], 2 * self.reserved[0], longest)
        self.sequences = [self.cache.restore(row) for row in rows] or [self.cache.add() for _ in range(batch)]

    def select(self, rows):
        """Row i becomes a copy of row rows[i], as beams are reordered."""
        if self.sequences:
            chosen = [self.cache.fork(self.sequences[row]) for row in rows]
            for sequence in self.sequences:
                self.cache.remove(sequence)
            self.sequences = chosen

    def attention(self, layer):
        return self.cache.layers[self.layers.index(layer)]


class _Patch:
    """A patched model: its layers in groups that share pages, and their Attention objects."""

    def __init__(self, base, numerics, reserve, fields):
        self.config, self.numerics, self.reserve, self.fields = base.config.to_dict(), numerics, reserve, fields
        self.modules = {layer: block.self_attn for layer, block in enumerate(base.layers)}
        self.groups = collections.defaultdict(list)
        for layer, module in self.modules.items():
            self.groups[_RATIOS[module.layer_type], str(module.q_a_proj.weight.device)].append(layer)
        self.loose = None  # pages of a forward without a cache

    def attentions(self, group, seqs, most, longest, device):
        ratio = group[0]
        fields = dict(self.fields)
        if ratio:
            fields["max_entries"] = longest // ratio
        made = {}
        for layer in self.groups[group]:
            made[layer] = Attention(
                self.config,
                _weights_of(self.modules[layer]),
                layer,
                numerics=self.numerics,
                max_tokens=most,
                max_seqs=seqs,
                max_positions=longest,
                device=str(device),
                **fields,
            )
        return made

    def pages_of(self, past_key_values):
        """The pages behind a cache of transformers, whose layers are replaced when it is first seen."""
        if past_key_values is None:
            return self.loose
        found = getattr(past_key_values, "_fathom_pages", None)
        if found is not None:
            if next(iter(found.values())).patched is not self:
                _refuse("past_key_values was filled through another patch")
            return found
        if type(past_key_values).__name__ != "DynamicCache" or getattr(past_key_values, "offloading", False):
            _refuse(
                f"past_key_values is a {type(past_key_values).__name__}, expected a DynamicCache without offloading"
            )
        if past_key_values.get_seq_length() > 0:
            _refuse("past_key_values was filled by the model before it was patched")
        past_key_values._fathom_pages = found = self.new_pages()
        layers = _cache_layer_class()
        owners = {layer: pages for pages in found.values() for layer in pages.layers}
        past_key_values.layers[:] = [
            layers(owners[layer], layer == owners[layer].layers[0], module.sliding_window)
            for layer, module in self.modules.items()
        ]
        return found

    def new_pages(self):
        return {group: _Pages(self, group) for group in self.groups}

    def pages(self, past_key_values, layer):
        found = self.pages_of(past_key_values)
        return next(pages for pages in found.values() if layer in pages.layers)


@functools.lru_cache(maxsize=None)
def _cache_layer_class():
    from transformers.cache_utils import DynamicSlidingWindowLayer

    class FathomCacheLayer(DynamicSlidingWindowLayer):
        """What transformers asks of a layer's cache, answered by the pages that layers of a kind share.

        Calls that change pages reach every layer; the first of a kind acts.
        """

        def __init__(self, pages, acts, sliding_window):
            super().__init__(sliding_window)
            self.pages, self.acts = pages, acts

        def update(self, *_, **__):
            _refuse("keys and values do not pass through this cache; it belongs to a patched model")

        def reorder_cache(self, beam_idx):
            self._select(beam_idx.tolist())

        def batch_select_indices(self, indices):
            self._select(indices.tolist())

        def batch_repeat_interleave(self, repeats):
            self._select([row for row in range(len(self.pages.sequences)) for _ in range(repeats)])

        def _select(self, rows):
            if self.acts:
                self.pages.select(rows)

        def crop(self, tokens_to_remove):
            if tokens_to_remove > 0:
                _refuse("crop; a cache of fathom.Cache(rollback_tokens=...) can roll back")

        def reset(self):
            self.cumulative_length = 0
            if self.acts:
                self.pages.__init__(self.pages.patched, self.pages.group)

        def offload(self):
            _refuse("offloading")

        prefetch = offload

    return FathomCacheLayer


def _before_model(patched, _module, args, kwargs):
    """Refuses what the attention modules would not see, and spares the model the mask that nobody reads."""
    if len(args) > 1:
        _refuse("more than one positional argument")
    mask = kwargs.get("attention_mask")
    if mask is not None:
        if isinstance(mask, dict) or mask.dim() != 2:
            _refuse("attention_mask is no [batch, length] mask; only causal attention over whole rows is computed")
        if not bool(mask.all()):
            _refuse("attention_mask hides tokens; padded batches are not computed, give each length its own batch")
    if kwargs.get("output_attentions") or patched.config.get("output_attentions"):
        _refuse("output_attentions; the layer does not keep attention weights")
    patched.loose = patched.new_pages()
    return args, {**kwargs, "attention_mask": {"sliding_attention": None}}


def _forward(patched, layer, module, hidden_states, position_ids, past_key_values=None, **_):
    import torch

    if module.training:
        _refuse("the model is in training mode; call model.eval()")
    if torch.is_grad_enabled() and hidden_states.requires_grad:
        _refuse("gradients; call the model under torch.no_grad()")
    batch, tokens, hidden = hidden_states.shape
    pages = patched.pages(past_key_values, layer)
    first = layer == pages.layers[0]
    if first:
        if layer == 0:
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            expected = torch.arange(past, past + tokens, device=position_ids.device)
            if not bool((position_ids == expected).all()):
                _refuse(f"position_ids are not {past} .. {past + tokens - 1} in every row")
        pages.begin(batch, tokens, hidden_states.device)
    elif pages.step is None:
        _refuse(f"layer {layer} is called out of order")
    try:
        out = pages.attention(layer)(hidden_states.reshape(batch * tokens, hidden), pages.step)
        if layer == pages.layers[-1]:
            pages.commit()
    except BaseException:
        pages.abandon()
        raise
    if past_key_values is not None:
        past_key_values.layers[layer].cumulative_length += tokens
    return out.view(batch, tokens, hidden), None


def _check_weights(layer, module):
    names = _weight_names(_RATIOS[module.layer_type])
    parameters = dict(module.named_parameters())
    fp8 = [path for path, weight in parameters.items() if dtype_name(weight.dtype) == "e4m3"]
    expected = set(names.values()) | {path + "_scale_inv" for path in fp8}
    different = sorted(expected ^ set(parameters))
    if different:
        _refuse(
            f"layer {layer} does not have the parameters of its kind (quantised or adapted?): {', '.join(different)}"
        )
    places = {str(weight.device) for weight in parameters.values()}
    if len(places) != 1 or next(iter(places)).partition(":")[0] not in ("cpu", "cuda"):
        _refuse(f"the weights of layer {layer} lie on {', '.join(sorted(places))}, expected one of cpu and cuda")
    for name, path in names.items():
        weight = parameters[path]
        if path not in fp8:
            if dtype_name(weight.dtype) not in ("f32", "bf16"):
                _refuse(f"layer {layer}: {path} is {weight.dtype}, expected float32 or bfloat16")
            continue
        scale, owner = parameters[path + "_scale_inv"], module.get_submodule(path.rpartition(".")[0])
        tiles = [-(-extent // 128) for extent in weight.shape]
        if name not in _PROJECTIONS or list(scale.shape) != tiles:
            _refuse(
                f"layer {layer}: {path} is FP8 with scales {list(scale.shape)}, expected one for each 128 x 128 tile: {tiles}"
            )
        if getattr(owner, "activation_scheme", "dynamic") != "dynamic" or getattr(owner, "bias", None) is not None:
            _refuse(f"layer {layer}: {path} has static activation scales or a bias")
        if dtype_name(scale.dtype) != "ue8m0" and bool((scale.float().log2() % 1 != 0).any()):
            _refuse(f"layer {layer}: the scales of {path} are no powers of two")


def _check_model(model, ignore_keys):
    """The DeepseekV4Model inside `model`, or a refusal that names what stands in the way."""
    base = getattr(model, "model", model)
    kind = type(base).__name__
    if kind != "DeepseekV4Model" or getattr(model.config, "model_type", None) != "deepseek_v4":
        _refuse(f"the model is a {type(model).__name__}, expected a transformers deepseek_v4 model")
    config = base.config
    known = set(type(config)().to_dict())
    unknown = sorted(set(config.to_dict()) - known - set(ignore_keys))
    if unknown:
        _refuse(
            f"config has {', '.join(unknown)}, unknown here; ignore_keys=(...) says that attention does not depend on them"
        )
    for name, expected in (("attention_bias", False), ("num_key_value_heads", 1)):
        if getattr(config, name) != expected:
            _refuse(f"config.{name} is {getattr(config, name)}, expected {expected}")
    for layer, block in enumerate(base.layers):
        module = block.self_attn
        if type(module).__name__ != "DeepseekV4Attention" or module.layer_type not in _RATIOS:
            _refuse(f"layer {layer} has a {type(module).__name__} of type {getattr(module, 'layer_type', None)}")
        _check_weights(layer, module)
    return base


def patch(model, *, numerics=None, reserve=1024, ignore_keys=(), **fields):
    """Computes the attention of a transformers `deepseek_v4` model with Fathom, in place; returns the model.

    numerics     "exact" (f32 activations, nothing quantised) or "served" (bf16 activations, FP8 rows, FP4 index keys);
                 left out, it is that of the model's dtype
    reserve      tokens of room that a sequence gets ahead; caches grow by doubling
    ignore_keys  keys of the configuration that are unknown here and do not matter to attention
    fields       further fields of the layers' problem: window_format="kv_bf16", ...

    Numbers: exact f32 agrees with transformers to rounding; bf16 differs from it by the model's own quantisation, which
    transformers leaves out.
    """
    base = _check_model(model, ignore_keys)
    if hasattr(base, "_fathom"):
        unpatch(model)
    dtype = dtype_name(base.layers[0].self_attn.q_b_proj.weight.dtype)
    patched = _Patch(base, numerics or ("exact" if dtype == "f32" else "served"), reserve, fields)
    for group in patched.groups:  # refusals of the library come here, not in the first forward
        patched.attentions(group, 1, 64, 256, group[1])
    hook = base.register_forward_pre_hook(functools.partial(_before_model, patched), with_kwargs=True)
    base._fathom = (patched, hook)
    for layer, module in patched.modules.items():
        module.forward = functools.partial(_forward, patched, layer, module)
    return model


def unpatch(model):
    """Gives the model its own attention back; caches filled meanwhile are of no use to it."""
    base = getattr(model, "model", model)
    patched, hook = base.__dict__.pop("_fathom")
    hook.remove()
    for module in patched.modules.values():
        del module.forward
    return model
