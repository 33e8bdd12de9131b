"""torch.ops.fathom.*: schemas, out= forms, opcheck, torch.compile(fullgraph=True), CUDA graphs. Skipped without torch.

Runs on whichever implementation is there: libfathom_torch.so, or the one over ctypes (FATHOM_TORCH_LIBRARY=none).
"""

import os

import pytest

torch = pytest.importorskip("torch")
import fathom  # noqa: E402
import fathom.torch_ops as torch_ops  # noqa: E402

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() and fathom.info()["devices"][1:] else [])
DEVICE = pytest.mark.parametrize("device", DEVICES)


def attend_case(device, tokens=3, seed=0):
    torch.manual_seed(seed)
    pages = fathom.quantize_kv(torch.randn(4, 16, 512)).to(device)
    raw = pages.contiguous().view(4, 16 * 584)
    q = torch.randn(tokens, 5, 512, dtype=torch.bfloat16, device=device)
    slots = torch.randint(-1, 64, (tokens, 20), dtype=torch.int32, device=device)
    given = dict(q=q, window_cache=raw, window_indices=slots)
    return given, torch_ops.problem("attend", **given, window_rows="list", window_page_size=16)


def linear_case(device):
    torch.manual_seed(1)
    given = dict(x=torch.randn(6, 96, device=device), weight=torch.randn(40, 96, device=device))
    return given, torch_ops.problem("linear", **given, out_dtype="f32")


def topk_case(device):
    torch.manual_seed(2)
    given = dict(scores=torch.randn(7, 300, device=device))
    return given, torch_ops.problem("select_topk", **given, topk=9)


def merge_case(device):
    torch.manual_seed(3)
    given = dict(partial_out=torch.randn(2, 3, 4, 8, device=device), partial_lse=torch.randn(2, 3, 4, device=device))
    return given, torch_ops.problem("merge_partials", **given, out_dtype="f32")


CASES = {"attend": attend_case, "linear": linear_case, "select_topk": topk_case, "merge_partials": merge_case}


def test_which_implementation():
    print(f"\ntorch_ops: {'libfathom_torch.so' if torch_ops.compiled else 'ctypes'}, torch {torch.__version__}")
    if os.environ.get("FATHOM_TORCH_LIBRARY"):
        assert torch_ops.compiled == os.path.exists(os.environ["FATHOM_TORCH_LIBRARY"])


def test_schemas_are_the_op_tables():
    for name in fathom.ops():
        overloads = getattr(torch.ops.fathom, name)
        wanted = torch_ops.schemas(name)
        assert sorted(overloads.overloads()) == sorted(["out", "default"][: len(wanted)])
        for schema, overload in zip(wanted, ("out", "default")):
            own = getattr(overloads, overload)._schema
            assert own == torch._C.parse_schema("fathom::" + schema), schema
        written = {arg.keyword for arg in fathom.op(name).args if arg.written}
        assert {arg.name for arg in overloads.out._schema.arguments if arg.is_write} == written
    assert torch.ops.fathom.index.overloads() == ["out"]


@DEVICE
@pytest.mark.parametrize("name", CASES)
def test_they_compute_what_the_package_does(name, device):
    given, problem = CASES[name](device)
    fields = {key: value for key, value in (word.split("=") for word in problem.split())}
    fields = {key: int(value) if value.isdigit() else value for key, value in fields.items()}
    want = getattr(fathom, name)(**given, **fields)
    got = getattr(torch.ops.fathom, name)(**given, problem=problem)
    assert got.device == want.device and got.dtype == want.dtype and torch.equal(got, want)
    into = torch.full_like(want, 7)
    outputs = [arg.keyword for arg in fathom.op(name).args if arg.role == "out"]
    assert getattr(torch.ops.fathom, name).out(**given, problem=problem, **{outputs[0]: into}) is None
    assert torch.equal(into, want)


@DEVICE
@pytest.mark.parametrize("name", CASES)
def test_opcheck(name, device):
    given, problem = CASES[name](device)
    ops = getattr(torch.ops.fathom, name)
    made = ops(**given, problem=problem)
    output = next(arg.keyword for arg in fathom.op(name).args if arg.role == "out")
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(ops.default, (), {**given, "problem": problem}, test_utils=tests)
    torch.library.opcheck(ops.out, (), {**given, "problem": problem, output: torch.zeros_like(made)}, test_utils=tests)


@DEVICE
def test_optional_outputs_and_forced_implementations(device):
    given, problem = attend_case(device)
    out = torch.empty_like(given["q"])
    lse, top = torch.empty(3, 5, device=device), torch.empty(3, 5, device=device)
    torch.ops.fathom.attend.out(**given, problem=problem, out=out, lse=lse, max_logits=top)
    assert torch.isfinite(lse).all() and (top <= lse).all()
    with pytest.raises((RuntimeError, ValueError), match="nothing"):
        torch.ops.fathom.attend.out(**given, problem=problem, force="nothing", out=out)
    other = torch.empty_like(out)
    if device == "cpu":
        torch.ops.fathom.attend.out(**given, problem=problem, force="reference", out=other)
        torch.testing.assert_close(other, out, rtol=2e-2, atol=5e-3)
        assert not torch.equal(other, out)


def test_ops_without_outputs_declare_what_they_change():
    op = fathom.op("compress")
    assert [arg.keyword for arg in op.args if arg.written] == ["state_cache", "cache"]
    changed = [arg.name for arg in torch.ops.fathom.compress.default._schema.arguments if arg.is_write]
    assert changed == ["state_cache", "cache"]


@DEVICE
def test_wrong_calls_raise_the_librarys_sentence(device):
    given, problem = attend_case(device)
    with pytest.raises((RuntimeError, ValueError), match="attend: .*expected"):
        torch.ops.fathom.attend(**given, problem="num_tokens=1 num_heads=3 window_rows=list")
    with pytest.raises((RuntimeError, ValueError), match="num_hats"):
        torch.ops.fathom.attend(**given, problem="num_hats=1")
    with pytest.raises((RuntimeError, ValueError), match="extents|shape"):
        torch.ops.fathom.attend.out(
            **{**given, "q": torch.zeros(1, 1, 1, 1, 1, device=device)},
            problem=problem,
            out=torch.zeros(1, device=device),
        )
    with pytest.raises((RuntimeError, ValueError), match="int16|element type"):
        torch.ops.fathom.attend(**{**given, "window_indices": given["window_indices"].short()}, problem=problem)
    with pytest.raises(TypeError, match="hats"):
        torch_ops.problem("attend", q=given["q"], hats=3)


@DEVICE
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_without_a_graph_break(backend, device):
    """A function around attend, with tokens that vary: one graph, results bit-equal, mutation seen."""
    given, problem = attend_case(device, tokens=8)

    def step(q, cache, slots, out, lse):
        torch.ops.fathom.attend.out(
            q=q * 2, window_cache=cache, window_indices=slots, problem=problem, out=out, lse=lse
        )
        again = torch.ops.fathom.attend(q=q * 2, window_cache=cache, window_indices=slots, problem=problem)
        return again + out, lse + 1

    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    for tokens in (8, 5, 3):
        part = [given["q"][:tokens], given["window_cache"], given["window_indices"][:tokens]]
        a = [torch.zeros_like(part[0]), torch.zeros(tokens, 5, device=device)]
        b = [torch.zeros_like(part[0]), torch.zeros(tokens, 5, device=device)]
        want, got = step(*part, *a), compiled(*part, *b)
        for x, y in zip((*want, *a), (*got, *b)):
            assert torch.equal(x, y)
        assert a[0].abs().max() > 0


@pytest.mark.skipif("cuda" not in DEVICES, reason="torch or libfathom has no GPU here")
def test_in_a_cuda_graph():
    given, problem = attend_case("cuda")
    out, lse = torch.zeros_like(given["q"]), torch.zeros(3, 5, device="cuda")
    call = dict(**given, problem=problem, out=out, lse=lse)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.ops.fathom.attend.out(**call)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.fathom.attend.out(**call)
        made = torch.ops.fathom.attend(**given, problem=problem)
    for seed in range(3):
        torch.manual_seed(seed)
        given["q"].copy_(torch.randn(3, 5, 512, device="cuda"))
        for tensor in (out, lse, made):
            tensor.zero_()
        graph.replay()
        want = fathom.attend(**given, window_rows="list", window_page_size=16)
        assert torch.equal(out, want) and torch.equal(made, want) and out.abs().max() > 0


def test_no_derivatives():
    """torch says so where somebody asks for one."""
    given, problem = linear_case("cpu")
    given["x"].requires_grad_()
    out = torch.ops.fathom.linear(**given, problem=problem)
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        out.sum().backward()
