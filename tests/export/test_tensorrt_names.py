"""Every name of TensorRT that our code uses exists in every release that may come there, by lists taken from the releases' wheels.

tensorrt_names/list_names.py makes the lists, tensorrt_names/release_paths.py reads our code against them.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.export.tensorrt_names.list_names import WHEELS, names_of
from tests.export.tensorrt_names.release_lists import MODULE, read_releases
from tests.export.tensorrt_names.release_paths import problems, read_functions

ROOT = Path(__file__).resolve().parent.parent.parent
LISTS = Path(__file__).resolve().parent / "tensorrt_names"
SOURCES = {
    f"{package}/{file.name}": file.read_text(encoding="utf-8")
    for package in ("runtime", "training", "export") for file in sorted((ROOT / package).glob("*.py"))
}  # fmt: skip
RELEASES = read_releases()
OLDEST, OLD_10, LAST_10, NEWEST = RELEASES


def found(*bodies: str, **files: str) -> list[str]:
    """The problems, without their places, of functions of `trt`, `config`, ... with these bodies, and of other files of export/."""
    functions = [
        f"def function_{index}(trt, config, builder, parser, layer, options):\n{textwrap.indent(textwrap.dedent(body), '    ')}"
        for index, body in enumerate(bodies)
    ]
    sources = {"export/snippet.py": "\n".join(functions)} if functions else {}
    sources |= {f"export/{name}.py": textwrap.dedent(text) for name, text in files.items()}
    return [problem.split(": ", 1)[1] for problem in problems(sources, RELEASES)]


FP16 = f"BuilderFlag.FP16 is not in TensorRT {NEWEST}"


def test_our_code_uses_only_names_that_the_releases_have():
    assert problems(SOURCES, RELEASES) == []


def test_what_our_code_uses_is_seen():
    """A check that sees nothing finds nothing wrong."""
    used = {(function.name.partition(":")[0], f"{owner}.{name}") for function in read_functions(SOURCES, RELEASES)
            for _, owner, name, _ in function.uses}  # fmt: skip
    assert used >= {
        ("export/build_progress.py", "Builder.build_serialized_network"),
        ("export/compiler.py", "BuilderFlag.FP16"),
        ("export/compiler.py", "ParserError.desc"),  # parser.get_error(index).desc()
        ("export/compiler.py", "EngineInspector.get_engine_information"),
        ("export/compiler.py", "ITimingCache.serialize"),
        ("export/fp32_layers.py", "LayerType.CONVOLUTION"),  # through a variable that is trt.LayerType
        ("export/fp32_layers.py", "ILayer.set_output_type"),
        ("runtime/tensorrt_session.py", "IExecutionContext.execute_async_v3"),  # self._context
        ("runtime/tensorrt_session.py", "DataType.name"),  # engine.get_tensor_dtype(name).name
        ("runtime/tensorrt_library.py", "ILogger.Severity.WARNING"),
    }
    assert {file for file, name in used if f"{MODULE}." in name} == {file for file, text in SOURCES.items() if "import tensorrt as" in text}


@pytest.mark.parametrize("line", ["config.set_flag(trt.BuilderFlag.NO_SUCH)", "config.set_flag(getattr(trt.BuilderFlag, 'NO_SUCH'))"])
def test_a_name_that_no_release_has_is_found_in_our_code(line):
    text = SOURCES["export/compiler.py"].replace("    config.profiling_verbosity =", f"    {line}\n    config.profiling_verbosity =")
    (problem,) = problems(SOURCES | {"export/compiler.py": text}, RELEASES)
    assert problem.endswith(f": BuilderFlag.NO_SUCH is not in TensorRT {', '.join(RELEASES)}")
    assert line in text.splitlines()[int(problem.split(":")[1]) - 1]


def test_our_code_without_its_conditions_fails_on_the_newest_release():
    """Also in the file whose only condition is that of its caller."""
    text = SOURCES["export/build_machine.py"].replace('hasattr(trt.BuilderFlag, "FP16")', "bool(trt.BuilderFlag)")
    lines = problems(SOURCES | {"export/build_machine.py": text}, RELEASES)
    assert {line.split(": ", 1)[1] for line in lines} >= {FP16, f"ILayer.precision is not in TensorRT {NEWEST}"}
    assert {line.split(":")[0] for line in lines} == {"export/compiler.py", "export/fp32_layers.py"}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", FP16),
        ("if not hasattr(trt.BuilderFlag, 'FP16'):\n    config.set_flag(trt.BuilderFlag.FP16)", FP16),
        ("if hasattr(trt.BuilderFlag, 'FP16') or options.force:\n    config.set_flag(trt.BuilderFlag.FP16)", FP16),
        ("if hasattr(trt.BuilderFlag, 'FP16') and options.fp16:\n    pass\nelse:\n    trt.BuilderFlag.FP16", FP16),
        ("if not hasattr(trt.BuilderFlag, 'FP16'):\n    print('no FP16')\ntrt.BuilderFlag.FP16", FP16),
        ("if not hasattr(trt.BuilderFlag, 'FP16') and options.fp16:\n    raise SystemExit\ntrt.BuilderFlag.FP16", FP16),
        ("for name in options:\n    if not hasattr(trt.BuilderFlag, 'FP16'):\n        break\ntrt.BuilderFlag.FP16", FP16),
        ("weak = hasattr(trt.BuilderFlag, 'FP16')\nweak = options.weak\nif weak:\n    trt.BuilderFlag.FP16", FP16),
        ("flags = trt.BuilderFlag\nconfig.set_flag(flags.FP16)", FP16),
        ("try:\n    return\nfinally:\n    config.set_flag(trt.BuilderFlag.FP16)", FP16),
        ("match options:\n    case 1:\n        return\n    case 2:\n        trt.BuilderFlag.FP16", FP16),
        ("return [trt.BuilderFlag.FP16 for _ in options]", FP16),
        ("layer.precision = trt.float32", f"ILayer.precision is not in TensorRT {NEWEST}"),
        ("config.builder_optimization_level = 5", f"IBuilderConfig.builder_optimization_level is not in TensorRT {OLDEST}"),
        ("trt.get_pluginregistry()", f"get_pluginregistry is not in TensorRT {', '.join(RELEASES)}"),
        ("builder.create_network(0).get_input(0).nam", f"ITensor.nam is not in TensorRT {', '.join(RELEASES)}"),
        ("parser.get_error(0).describe()", f"ParserError.describe is not in TensorRT {', '.join(RELEASES)}"),
    ],
)  # fmt: skip
def test_a_name_on_the_path_of_a_release_without_it_is_found(body, problem):
    assert found(body) == [problem]


@pytest.mark.parametrize(
    "body",
    [
        "config.set_flag(trt.BuilderFlag.TF32)",
        "if hasattr(trt.BuilderFlag, 'FP16'):\n    config.set_flag(trt.BuilderFlag.FP16)",
        "if hasattr(trt.BuilderFlag, 'FP16') and options.fp16:\n    config.set_flag(trt.BuilderFlag.FP16)",
        "weak = hasattr(trt.BuilderFlag, 'FP16')\nif options and weak:\n    config.set_flag(trt.BuilderFlag.FP16)",
        "if not hasattr(trt.BuilderFlag, 'FP16'):\n    raise SystemExit\nconfig.set_flag(trt.BuilderFlag.FP16)",
        "assert hasattr(trt.BuilderFlag, 'FP16')\nconfig.set_flag(trt.BuilderFlag.FP16)",
        "return hasattr(trt.BuilderFlag, 'FP16') and trt.BuilderFlag.FP16",
        "return trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, 'FP16') else None",
        "return getattr(trt.BuilderFlag, 'FP16', None)",
        "if hasattr(config, 'progress_monitor'):\n    config.progress_monitor = trt.IProgressMonitor()",
        "return parser.get_error(0).desc().upper()",
    ],
)  # fmt: skip
def test_a_name_on_the_paths_of_releases_that_have_it_is_fine(body):
    assert found(body) == []


CONDITION = "return hasattr(trt.BuilderFlag, 'FP16')"
ALLOW = "import tensorrt as trt\ndef allow(config):\n    config.set_flag(trt.BuilderFlag.FP16)\n"
CALL = "from retinanet_edge.export.allow import allow\ndef call(trt, config):\n    "


def test_a_function_that_returns_a_condition_is_one():
    assert found(CONDITION, "if function_0(trt):\n    trt.BuilderFlag.FP16") == []
    assert found(CONDITION, "if not function_0(trt):\n    trt.BuilderFlag.FP16") == [FP16]
    assert found("options.count += 1\n" + CONDITION, "if function_0(trt):\n    trt.BuilderFlag.FP16") == [FP16], "it does more"


def test_what_a_function_uses_runs_where_it_is_called():
    guarded = CALL + "if hasattr(trt.BuilderFlag, 'FP16'):\n        allow(config)\n"
    assert found(allow=ALLOW, call=guarded) == []
    assert found(allow=ALLOW, call=CALL + "allow(config)\n") == [FP16]
    assert found(allow=ALLOW, call=guarded, other=CALL + "return [allow]\n") == [FP16], "one that is handed on may run anywhere"
    assert found(allow=ALLOW) == [FP16], "one that nothing calls, too"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import tensorrt\ndef f(thing: Any): ...\n", "thing may be an object of TensorRT: say in VARIABLES which"),
        ("import tensorrt\ndef f() -> Any: ...\ndef g():\n    it = f()\n", "it may be an object of TensorRT: say in VARIABLES which"),
        ("import tensorrt\nclass C:\n    def f(self):\n        self._thing: Any = None\n",
         "_thing may be an object of TensorRT: say in VARIABLES which"),
        ("import tensorrt\ndef f(a):\n    thing: Any = a.b\n", "thing may be an object of TensorRT: say in VARIABLES which"),
        ("import tensorrt\nclass C:\n    def f(self): self._engine.no_such\n",
         f"ICudaEngine.no_such is not in TensorRT {', '.join(RELEASES)}"),
        ("import tensorrt as t\ndef f(name): return getattr(t, name)\n", "getattr(t, name) cannot be followed: write the name out"),
        ("import tensorrt as t\nhasattr(t.BuilderFlag, 'FP61')\n", "hasattr(t.BuilderFlag, 'FP61') asks for what no release has"),
        ("from tensorrt import Builder\n", "from tensorrt import ... cannot be followed: import tensorrt as trt"),
        ("import tensorrt as t\nt.IGatherLayer.no_such\n", f"IGatherLayer.no_such is not in TensorRT {', '.join(RELEASES)}"),
        ("import tensorrt as t\nt.ILoopBoundaryLayer.loop.f\n", f"ILoop.f is not in TensorRT {', '.join(RELEASES)}"),  # "nvinfer1::ILoop"
        ("import tensorrt as t\nt.Builder.gpu_allocator.f\n",
         "t.Builder.gpu_allocator.f cannot be followed: say in RETURNED what it is a member of"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_said(text, problem):
    assert found(one=text) == [problem]


def test_an_object_that_leaves_for_a_file_that_is_not_read_is_found():
    elsewhere = "def f(n): n.no_such()\n"
    here = "import tensorrt as trt\nfrom retinanet_edge.export.elsewhere import f\ndef g(network): f(network)\n"
    (problem,) = found(elsewhere=elsewhere, here=here)
    assert problem.startswith("export/elsewhere.py:f takes an object of TensorRT, but its file does not import tensorrt")


def test_there_is_a_list_for_each_wheel():
    assert list(RELEASES) == list(WHEELS)
    for version, wheel in WHEELS.items():
        header = (LISTS / f"{version}.txt").read_text(encoding="utf-8").split("Builder")[0]
        assert f"{wheel.replace('-', '_')}-{version}-cp310-" in header
    assert sum(file.stat().st_size for file in LISTS.glob("*.txt")) < 300_000


@pytest.mark.parametrize(
    ("owner", "name", "having"),
    [  # what is known to set the releases apart
        ("BuilderFlag", "FP16", [OLDEST, OLD_10, LAST_10]),
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", [OLDEST, OLD_10, LAST_10]),
        ("TacticSource", "CUDNN", [OLDEST, OLD_10, LAST_10]),
        ("ICudaEngine", "device_memory_size", [OLDEST, OLD_10, LAST_10]),
        ("ICudaEngine", "num_bindings", [OLDEST]),
        ("IExecutionContext", "execute_async_v3", [OLDEST, OLD_10, LAST_10, NEWEST]),
        ("IBuilderConfig", "progress_monitor", [OLD_10, LAST_10, NEWEST]),
        ("IConvolutionLayer", "get_input", [OLDEST, OLD_10, LAST_10, NEWEST]),  # ILayer's
        (MODULE, "init_libnvinfer_plugins", [OLDEST, OLD_10, LAST_10, NEWEST]),
        (MODULE, "UffParser", [OLDEST]),
        ("Builder", "no_such", []),
    ],
)  # fmt: skip
def test_the_lists_hold_what_is_known_of_the_releases(owner, name, having):
    assert [version for version, release in RELEASES.items() if release.find(owner, name)] == having


def test_a_tensorrt_that_is_installed_has_the_names_of_its_list():
    trt = pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    if trt.__version__ not in RELEASES:
        pytest.skip(f"no list for TensorRT {trt.__version__}")
    listed = (LISTS / f"{trt.__version__}.txt").read_text(encoding="utf-8").splitlines()
    assert names_of(trt) == [line for line in listed if not line.startswith("#")]
