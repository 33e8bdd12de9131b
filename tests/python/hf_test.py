"""fathom.hf.patch on a tiny random transformers deepseek_v4. Skipped where torch or transformers are not installed.

FATHOM_TEST_DEVICE=cuda runs all of it on a GPU.
"""

import os

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "DeepseekV4Config"):
    pytest.skip("transformers has no deepseek_v4", allow_module_level=True)
from fathom import hf  # noqa: E402

DEVICE = os.environ.get("FATHOM_TEST_DEVICE", "cpu")
KINDS = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")


def tiny(layer_types=(*KINDS, KINDS[1]), dtype=torch.float32, seed=0, **changes):
    """All three kinds; sinks, biases and norms that matter. Few index heads would give ties, which anyone may break."""
    torch.manual_seed(seed)
    config = transformers.DeepseekV4Config(
        **{
            **dict(
                vocab_size=512,
                hidden_size=128,
                moe_intermediate_size=64,
                num_hidden_layers=len(layer_types),
                num_attention_heads=8,
                q_lora_rank=64,
                num_experts_per_tok=2,
                n_routed_experts=4,
                max_position_embeddings=16384,
                layer_types=list(layer_types),
                hc_mult=2,
                mlp_layer_types=["moe"] * len(layer_types),
                o_groups=4,
                o_lora_rank=32,
                index_n_heads=16,
                index_topk=16,
                initializer_range=0.1,
                eos_token_id=None,
                rope_parameters=dict(
                    rope_type="yarn", factor=16, original_max_position_embeddings=1024, beta_fast=32, beta_slow=1
                ),
            ),
            **changes,
        }
    )
    model = transformers.DeepseekV4ForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("sinks", "position_bias")):
                weight.normal_(0, 0.5)
            elif "norm.weight" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    return model.to(DEVICE, dtype)


def prompt(rows, tokens, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 512, (rows, tokens), generator=generator).to(DEVICE)


def difference(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


@torch.no_grad()
def test_logits_and_64_tokens_are_the_models():
    model, ids = tiny(), prompt(2, 200)
    want = model(ids).logits
    tokens = model.generate(ids, max_new_tokens=64, do_sample=False)
    hf.patch(model)
    got = model(ids).logits
    print(f"\nhf {DEVICE} f32: logits differ by {difference(got, want):.2g} of the largest")
    assert difference(got, want) < 2e-5
    after = model.generate(ids, max_new_tokens=64, do_sample=False)
    print(f"hf {DEVICE} f32: {(after[:, 200:] == tokens[:, 200:]).sum().item()} of {2 * 64} generated tokens agree")
    assert torch.equal(after, tokens)
    hf.unpatch(model)
    assert torch.equal(model(ids).logits, want)


@torch.no_grad()
def test_any_cut_gives_the_same():
    """Whole, in uneven chunks (the pools grow in between) and without a cache."""
    model, ids = tiny(), prompt(2, 700)
    hf.patch(model, reserve=16)
    whole = model(ids, use_cache=False).logits
    cache, parts, at = transformers.DynamicCache(config=model.config), [], 0
    for count in (3, 1, 130, 1, 1, 300, 264):
        parts.append(model(ids[:, at : at + count], past_key_values=cache).logits)
        at += count
        assert cache.get_seq_length() == at
    assert at == 700
    assert difference(torch.cat(parts, 1), whole) < 2e-5


@torch.no_grad()
def test_beams_follow_their_sequences():
    """Beam search reorders rows: scores of what it returns are those of the same tokens computed afresh."""
    model, ids = hf.patch(tiny()), prompt(2, 21)
    found = model.generate(
        ids, max_new_tokens=9, num_beams=3, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    logits = model(found.sequences).logits.log_softmax(-1)[:, 20:-1]
    scores = logits.gather(2, found.sequences[:, 21:, None]).sum((1, 2)) / 9
    torch.testing.assert_close(found.sequences_scores, scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bf16_serves():
    """With rows kept in bf16, as close to the model in f32 as transformers in bf16; served quantises them as well."""
    model, ids = tiny(dtype=torch.bfloat16), prompt(1, 150)
    wide = tiny()
    wide.load_state_dict({name: weight.float() for name, weight in model.state_dict().items()})
    want = wide(ids).logits

    def error(logits):
        return ((logits.double() - want.double()).norm() / want.double().norm()).item()

    theirs = error(model(ids).logits)
    kept = error(hf.patch(model, window_format="kv_bf16", entries_format="kv_bf16")(ids).logits)
    served = error(hf.patch(model)(ids).logits)
    print(f"\nhf {DEVICE} bf16: relative L2 error {kept:.2g}, served {served:.2g}, transformers {theirs:.2g}")
    assert kept < 1.5 * theirs and kept < served < 0.3
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (1, 154)


def quantised(model, scale_fmt):
    """The model's projections as transformers' FP8 modules, and a bf16 model of the same values."""
    from transformers.integrations.finegrained_fp8 import FP8Linear

    plain = tiny(dtype=torch.bfloat16)
    for block, other in zip(model.model.layers, plain.model.layers):
        holders = [
            (block.self_attn, other.self_attn, name)
            for name in ("q_a_proj", "q_b_proj", "kv_proj", "o_a_proj", "o_b_proj")
        ]
        if getattr(block.self_attn.compressor, "indexer", None) is not None:
            holders.append((block.self_attn.compressor.indexer, other.self_attn.compressor.indexer, "q_b_proj"))
        for holder, theirs, name in holders:
            weight = getattr(holder, name).weight.detach().float()
            rows, columns = weight.shape
            made = FP8Linear(columns, rows, block_size=(128, 128), scale_fmt=scale_fmt).to(DEVICE)
            scale = torch.empty(-(-rows // 128), -(-columns // 128), device=DEVICE)
            for i in range(scale.shape[0]):
                for j in range(scale.shape[1]):
                    tile = weight[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
                    scale[i, j] = 2.0 ** torch.ceil(torch.log2(tile.abs().max() / 448))
                    made.weight.data[128 * i : 128 * i + 128, 128 * j : 128 * j + 128] = (tile / scale[i, j]).to(
                        torch.float8_e4m3fn
                    )
            made.weight_scale_inv.data = scale.to(made.weight_scale_inv.dtype)
            setattr(holder, name, made)
            wide = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
            getattr(theirs, name).weight.data = (made.weight.float() * wide).to(torch.bfloat16)  # exact
    return plain


@torch.no_grad()
@pytest.mark.parametrize("scale_fmt", ["float", "ue8m0"])
def test_fp8_projections(scale_fmt):
    """As close to the bf16 model of the same values as quantised activations allow; other scales are refused."""
    model, ids = tiny(dtype=torch.bfloat16), prompt(1, 90)
    plain = quantised(model, scale_fmt)
    want = hf.patch(plain)(ids).logits.float()
    got = hf.patch(model)(ids).logits.float()
    error = ((got - want).norm() / want.norm()).item()
    print(f"\nhf {DEVICE} fp8 with {scale_fmt} scales: relative L2 error {error:.2g} against bf16")
    assert 0 < error < 0.3
    if scale_fmt == "float":
        model.model.layers[1].self_attn.kv_proj.weight_scale_inv.data[0, 0] *= 1.5
        with pytest.raises(NotImplementedError, match="kv_proj.*powers of two"):
            hf.patch(model)


@torch.no_grad()
def test_an_error_inside_leaves_the_cache_usable():
    model, ids = hf.patch(tiny()), prompt(1, 40)
    cache = transformers.DynamicCache(config=model.config)
    want = model(ids, past_key_values=cache).logits
    more = prompt(1, 5, seed=2)
    expected = model(torch.cat([ids, more], 1), use_cache=False).logits[:, 40:]
    broken = model.model.layers[2].mlp.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(more, past_key_values=cache)
    broken.remove()
    fresh = transformers.DynamicCache(config=model.config)
    assert torch.equal(model(ids, past_key_values=fresh).logits, want)
    assert difference(model(more, past_key_values=fresh).logits, expected) < 2e-5


def test_refusals_name_what_cannot_be_done():
    model, ids = hf.patch(tiny(KINDS[:2])), prompt(2, 12)

    def refused(match, *args, **kwargs):
        with pytest.raises(NotImplementedError, match=match):
            model(*args, **kwargs)

    refused("gradients", ids)
    with torch.no_grad():
        model.train()
        refused("training mode", ids)
        model.eval()
        padded = torch.ones_like(ids)
        padded[0, :3] = 0
        refused("padded batches", ids, attention_mask=padded)
        refused("causal attention", ids, attention_mask=torch.zeros(2, 1, 12, 12, device=DEVICE))
        refused("position_ids", ids, position_ids=torch.arange(1, 13, device=DEVICE)[None])
        refused("output_attentions", ids, output_attentions=True)
        refused(
            "OtherCache", ids, past_key_values=type("OtherCache", (transformers.DynamicCache,), {})(config=model.config)
        )
        cache = transformers.DynamicCache(config=model.config)
        model(ids, past_key_values=cache)
        refused("3 rows", prompt(3, 1), past_key_values=cache)
        with pytest.raises(NotImplementedError, match="crop"):
            cache.crop(1)
        hf.unpatch(model)
        theirs = transformers.DynamicCache(config=model.config)
        model(ids, past_key_values=theirs)
        hf.patch(model)
        refused("before it was patched", ids, past_key_values=theirs)


def test_models_that_cannot_be_patched():
    def refused(match, model, **options):
        with pytest.raises(NotImplementedError, match=match):
            hf.patch(model, **options)

    refused("expected a transformers deepseek_v4", torch.nn.Linear(2, 2))
    model = tiny(KINDS[:2])
    model.model.layers[0].self_attn.q_a_proj = torch.nn.Sequential(model.model.layers[0].self_attn.q_a_proj)
    refused(r"q_a_proj\.0\.weight", model)
    model = tiny(KINDS[:1])
    model.config.attention_gain = 2.0
    refused("attention_gain", model)
    assert hf.patch(model, ignore_keys=("attention_gain",)) is model
    refused("float16", tiny(KINDS[:1], dtype=torch.float16))
    model = tiny(KINDS[:1])
    model.model.layers[0].self_attn.to("meta")
    refused("meta", model)


@torch.no_grad()
def test_the_attention_interface_route_and_its_mask_trap():
    """docs/guide/python.md: a registered attention function sees the right mask only with eager_mask under its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask, sdpa_mask
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import eager_attention_forward

    model, ids = tiny(), prompt(1, 150)
    want = model(ids).logits
    differences = {}
    for name, mask in (("fathom_right", eager_mask), ("fathom_bool", sdpa_mask), ("fathom_none", None)):
        AttentionInterface.register(name, eager_attention_forward)
        if mask is not None:
            AttentionMaskInterface.register(name, mask)
        model.set_attn_implementation(name)
        differences[name] = difference(model(ids).logits, want)
    print(f"\nattention interface: logits differ by {differences}")
    assert differences["fathom_right"] == 0 and min(differences["fathom_bool"], differences["fathom_none"]) > 0.05
