"""Build of the compiled core.

Every `.pyx` under lb, backend, bench and tests/compiled becomes an extension module. There is no fallback to
interpreted code: a missing header or compiler stops the build and names the package to install.

Modules are translated and compiled on all usable CPUs, with a count of what is done. Declaration files that many
modules name are read once. A module is built again only where something it is made from has changed: its sources, what
they cimport, the headers, the flags, the compiler, Cython or Python. A key over all of these is kept in `build/keys`; a
wheel takes the modules that stand in the tree with that key.

The constants of the counter series, `lb/shared/segment_words.pxd`, are written first, from `lb/shared/words.py`.

What Cython's modules have in common (memory views, calls, imports) is compiled once, in `lb.shared.cython_shared`.

TIDEGATE_CFLAGS and TIDEGATE_LDFLAGS are added to the flags, TIDEGATE_JOBS is the number of compilers that run at a time
(default: the usable CPUs), TIDEGATE_ONLY names the modules to build, TIDEGATE_RUN_ONLY=1 leaves out those of the bench
suite and of the tests.
"""

import gc
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from runpy import run_path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()

# library (pkg-config name) -> (Debian package, least version)
LIBRARIES = {
    "libllhttp": ("libllhttp-dev", "9.0"),
    "libnghttp2": ("libnghttp2-dev", "1.52"),
    "libonnxruntime": ("libonnxruntime-dev", "1.21"),  # its header alone: the pip package's library is loaded
    "libsodium": ("libsodium-dev", "1.0.18"),
    "openssl": ("libssl-dev", "3.0"),
    "re2": ("libre2-dev", "0"),  # older ones give the number of their interface as version
    "yaml-0.1": ("libyaml-dev", "0.2.2"),
}
# Modules that name ONNX Runtime's C API
WITH_RUNTIME = ("backend.", "tests.compiled.inference_")
# module -> the C libraries it links
LINKS = {
    "lb.config.yaml_values": ["yaml-0.1"],
    "lb.http.head_text": ["libllhttp"],
    "lb.http.http1": ["libllhttp"],
    "lb.http.methods": ["libllhttp"],
    "lb.http.http2.blocks": ["libnghttp2"],
    "lb.http.http2.message": ["libnghttp2"],
    "lb.shared.data_digest": ["openssl"],
    "lb.shared.hashing": ["libsodium"],
    "lb.http.regex": ["re2"],
    "lb.net.tls.certificate": ["openssl"],
    "lb.net.tls.pem": ["openssl"],
    "lb.net.proxy_tls": ["openssl"],
    "lb.net.tls.revocation": ["openssl"],
    "lb.net.tls.session": ["openssl"],
    "lb.net.tls.context": ["openssl"],
    "lb.net.tls.peer": ["openssl"],
    "lb.net.tls.version": ["openssl"],
    "lb.net.tls.facts": ["openssl"],
    "bench._stub": ["libnghttp2"],
}


# Three levels, by what `bench guard` counts. Where a call of gRPC and an inference spend their time, -O2 saves 5 % of
# their instructions. Elsewhere it saves none, and the compiler takes half as long again. What runs at a start, at a
# reload, or once in the life of a connection shows in no figure: the compiler takes a third less there with -Og.
SELDOM = (
    "lb.config.", "lb.control.", "lb.http.regex", "lb.net.address", "lb.net.proxy_tls", "lb.net.tls.certificate",
    "lb.net.tls.context", "lb.net.tls.peer", "lb.net.tls.pem", "lb.net.tls.revocation", "lb.net.tls.version",
    "lb.proxy.proxy", "lb.proxy.routing.tables", "lb.shared.cython_shared", "lb.shared.segment_layout",
    "lb.upstream.connections.grpc_py", "tests.compiled.",
)  # fmt: skip
OPTIMIZED = (
    "backend.grpc.", "backend.inference.", "lb.http.authority", "lb.http.grpc.text", "lb.http.head",
    "lb.http.http1", "lb.http.http2.", "lb.inference.answer", "lb.inference.contents", "lb.inference.counts",
    "lb.inference.datatypes", "lb.inference.decimals",
    "lb.inference.floats", "lb.inference.jsontext", "lb.inference.message", "lb.inference.paths",
    "lb.inference.reader", "lb.inference.request", "lb.inference.response", "lb.inference.rows",
    "lb.inference.template", "lb.inference.tensors", "lb.net.ip",
    "lb.net.poller", "lb.net.stack", "lb.net.stream", "lb.net.tls.session", "lb.proxy.client.http2",
    "lb.proxy.exchange.exchange",
    "lb.proxy.exchange.http2", "lb.proxy.exchange.inference", "lb.upstream.attempt",
    "lb.upstream.connections.http2", "lb.upstream.pool", "bench._stub", "bench.guard.",
)  # fmt: skip
OPTIMIZE = ["-O2"]
OPTIMIZE_LESS = [
    "-O1", "-finline-small-functions", "-findirect-inlining", "-fpartial-inlining", "-foptimize-sibling-calls",
    "-freorder-blocks",
]  # fmt: skip
OPTIMIZE_LEAST = ["-Og"]
# C++ modules: RE2 has no interface for C
CPLUSPLUS = {"lb.http.regex", "lb.inference.decimals"}

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "annotation_typing": False,
    "embedsignature": True,
    "show_performance_hints": False,
    # Nothing of the core is pickled, and its functions need no attributes. Each takes a fifth to a half off the time in
    # which a small module compiles.
    "auto_pickle": False,
    "binding": False,
}
# Cython's own code that every module would have a copy of. Its source is generated, so it has none in the tree.
SHARED = "lb.shared.cython_shared"
# Declaration files that are read once, with all that they cimport, for the modules that cimport all of it: 41, 62 and
# 99 modules when this was written. Those that save most come first.
READ_ONCE = ("lb.proxy.exchange.exchange", "lb.upstream.pool", "lb.net.stream")
KEYS = ROOT / "build" / "keys"
WORDS, WORDS_DECLARED = (ROOT / "lb" / "shared" / name for name in ("words.py", "segment_words.pxd"))
FEW = 20  # modules, for which loading Cython's templates once is not worth its time
SILENCE = 5  # seconds without a line, where lines cannot be overwritten
CIMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?:cython\.cimports\.)?([\w.]+)[ \t]+)?(?:cimport|import)[ \t]+(\([^)]*\)|[^(#\n]*)",
    re.MULTILINE,
)


def stop(message: str) -> None:
    sys.exit(f"tidegate: cannot build the compiled core: {message}")


@cache
def pkg_config(library: str) -> dict[str, list[str]]:
    package, version = LIBRARIES[library]
    if shutil.which("pkg-config") is None:
        stop("pkg-config is missing; install it with: apt-get install pkg-config")
    if subprocess.run(["pkg-config", f"--atleast-version={version}", library]).returncode:
        stop(f"{library} {version} or newer is missing; install it with: apt-get install {package}")

    # Depth 3 is the library and what its own headers name. RE2 behind that lists Abseil's 200 packages, for 5 s a call.
    command = ["pkg-config", "--maximum-traverse-depth=3", "--cflags", "--libs", library]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    def named(option: str) -> list[str]:
        return [word[2:] for word in dict.fromkeys(words) if word.startswith(option)]

    return {"include_dirs": named("-I"), "library_dirs": named("-L"), "libraries": named("-l")}


def declare_words() -> None:
    """Writes what the compiled side counts by, where the table has changed."""
    text = run_path(str(WORDS), run_name="words")["declarations"]()
    if not WORDS_DECLARED.exists() or WORDS_DECLARED.read_text() != text:
        WORDS_DECLARED.write_text(text)


def sources() -> list[Path]:
    pyx = sorted(path for top in ("lb", "backend", "bench", "tests/compiled") for path in ROOT.glob(f"{top}/**/*.pyx"))
    return [Path(f"{ROOT / SHARED.replace('.', '/')}.c"), *pyx]


def optimization(module: str) -> list[str]:
    if module.startswith(SELDOM):
        return OPTIMIZE_LEAST
    return OPTIMIZE if module.startswith(OPTIMIZED) else OPTIMIZE_LESS


def extension(source: Path) -> Extension:
    relative = source.relative_to(ROOT)
    module = ".".join(relative.with_suffix("").parts)
    links: dict[str, list[str]] = {"include_dirs": [], "library_dirs": [], "libraries": []}
    needed = ["libonnxruntime"] if module.startswith(WITH_RUNTIME) else LINKS.get(module, [])
    for library in needed:
        for key, values in pkg_config(library).items():
            links[key] += values
    flags = [
        *optimization(module),
        "-g0",  # debug information takes time and room; TIDEGATE_CFLAGS="-O0 -g" makes a debug build (lb.net.states)
        "-frecord-gcc-switches",  # a module says how it was made: `bench guard` compares like with like
        "-std=gnu++17" if module in CPLUSPLUS else "-std=gnu11",
        "-fno-strict-aliasing",
        # Cython's code compares signs, and sets variables on ways, that the compiler cannot see are right.
        "-Wno-unused-function",
        "-Wno-sign-compare",
        "-Wno-maybe-uninitialized",
        "-Wno-array-bounds",
        # What Cython forgets to put into a module would be an undefined symbol when the module is loaded.
        *([] if module in CPLUSPLUS else ["-Werror=implicit-function-declaration"]),
        "-fno-plt",
        "-fvisibility=hidden",
        # Objects come and go with every request. Their types have no __del__, and no `new` that Python code calls with
        # arguments by the million: what Cython does for these costs each object some dozen instructions.
        "-DCYTHON_USE_TP_FINALIZE=0",
        "-DCYTHON_VECTORCALL_TPNEW=0",
    ]
    flags += os.environ.get("TIDEGATE_CFLAGS", "").split()
    return Extension(
        module,
        [str(relative)],
        include_dirs=[*(str(ROOT / "lb" / room) for room in ("shared", "net", "cache")), *links["include_dirs"]],
        library_dirs=links["library_dirs"],
        libraries=[*links["libraries"], "m"],  # left out again where nothing needs it
        extra_compile_args=flags,
        extra_link_args=["-Wl,--as-needed", *os.environ.get("TIDEGATE_LDFLAGS", "").split()],
        language="c++" if module in CPLUSPLUS else None,
    )


def extensions() -> list[Extension]:
    # The Makefile installs the package first and builds in place afterwards.
    if os.environ.get("TIDEGATE_NO_EXTENSIONS"):
        return []
    if not any(
        command in sys.argv for command in ("build_ext", "build", "bdist_wheel", "editable_wheel", "install", "develop")
    ):
        return []
    if shutil.which(os.environ.get("CC", "gcc").split()[0]) is None and shutil.which("cc") is None:
        stop("a C compiler is missing; install it with: apt-get install gcc")
    declare_words()
    only = os.environ.get("TIDEGATE_ONLY", "").split()
    found = [e for e in map(extension, sources()) if not only or e.name in only]
    return [e for e in found if is_product(e.name)] if os.environ.get("TIDEGATE_RUN_ONLY") else found


class Keys:
    """What each module is made from, as one digest: two builds with the same key give the same module."""

    def __init__(self) -> None:
        from Cython import __version__ as cython

        compiler = os.environ.get("CC", "gcc").split()
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
        headers = sorted(ROOT.glob("lb/**/*.h"))
        self.common = repr(
            [cython, version, sysconfig.get_config_var("SOABI"), sysconfig.get_config_var("CFLAGS"), DIRECTIVES, SHARED]
        )
        self.headers = [self.digest(header) for header in headers]

    @staticmethod
    @cache
    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @staticmethod
    @cache
    def cimported(path: Path) -> set[Path]:
        """The declaration files that a source names; Cython's own (libc, posix, cpython) come with its version."""
        found = set()
        for package, listed in CIMPORT.findall(path.read_text()):
            names = [name.split()[0] for name in listed.strip("()").split(",") if name.split()]
            for module in [package, *(f"{package}.{name}" for name in names)] if package else names:
                declared = ROOT / f"{module.replace('.', '/')}.pxd"
                if declared.exists():
                    found.add(declared)
        return found

    def made_from(self, source: Path) -> set[Path]:
        if source.suffix == ".c":
            return set()  # generated, from Cython alone
        found, todo = set(), [source, source.with_suffix(".pxd")]
        while todo:
            path = todo.pop()
            if path not in found and path.exists():
                found.add(path)
                todo += self.cimported(path)
        return found

    def key(self, module: Extension) -> str:
        parts = [
            self.common,
            repr(
                [(str(p.relative_to(ROOT)), self.digest(p)) for p in sorted(self.made_from(ROOT / module.sources[0]))]
            ),
            repr(self.headers),
            repr([module.extra_compile_args, module.extra_link_args, module.libraries, module.library_dirs]),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Translator:
    """Makes C or C++ of modules.

    `cythonize` reads all that a module may depend on first, which takes longer than a small module does; which modules
    are to be translated is known here already.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.read: dict[frozenset[Path], Any] = {}  # declaration files -> Cython's context that has read them

    @staticmethod
    def options(module: Extension | None = None) -> Any:
        from Cython.Compiler.Main import CompilationOptions

        made = CompilationOptions(
            include_path=["."], compiler_directives=DIRECTIVES, shared_utility_qualified_name=SHARED, timestamps=False,
            cplus=module is not None and module.name in CPLUSPLUS,
        )  # fmt: skip
        made.configure_language_defaults("pyx")
        return made

    def read_declarations(self, todo: list[Extension]) -> None:
        """Reads what many of `todo` name.

        Cython reads all that a module names anew for each module, which takes longer than the rest of the translation
        where that is eighty files.
        """
        from Cython.Compiler.Errors import init_thread
        from Cython.Compiler.Main import Context

        init_thread()
        for name in READ_ONCE:
            path = ROOT / f"{name.replace('.', '/')}.pxd"
            declared = frozenset(self.keys.made_from(path))
            if sum(self.begins_with(module) is None and self.names(module) >= declared for module in todo) > 1:
                context = Context.from_options(self.options())
                context.find_module(name, need_pxd=True)
                self.read[declared] = context

    def load_templates(self, todo: list[Extension]) -> None:
        """Translates one module here, which loads the templates of Cython's C code for every process that is forked.

        The module has a context of its own, so it can be translated again.
        """
        for module in todo:
            if module.name != SHARED and self.begins_with(module) is None:
                self.translate(module)
                return

    def names(self, module: Extension) -> set[Path]:
        return self.keys.made_from(ROOT / module.sources[0])

    def begins_with(self, module: Extension) -> Any:
        """The context of which a module names all that was read: what it does not name would get into it."""
        if module.name in CPLUSPLUS:
            return None
        named = self.names(module)
        return next((context for declared, context in self.read.items() if declared <= named), None)

    def translate(self, module: Extension) -> str:
        """The path of the C or C++, once in a process. Raises CompileError; the errors themselves are printed."""
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError
        from Cython.Compiler.Main import compile_single

        if module.name == SHARED:
            options = {"compiler_directives": DIRECTIVES, "shared_utility_qualified_name": SHARED}
            return str(cythonize([module], force=True, quiet=True, **options)[0].sources[0])
        result = compile_single(module.sources[0], self.options(module), module.name, context=self.begins_with(module))
        if result.num_errors:
            raise CompileError(None, "Cython found errors")
        return str(result.c_file)


def translate_and_compile(command: build_ext, translator: Translator, module: Extension) -> None:
    gc.set_threshold(100_000)  # Cython's trees are garbage at the end only
    module.sources = [os.path.relpath(translator.translate(module), ROOT)]
    command.force = True
    command.build_extension(module)


def in_processes(work: Callable[[Extension], None], todo: list[Extension], jobs: int) -> Iterator[Extension]:
    """Does `work` for each of `todo` in a process of its own, `jobs` at a time; the modules as they are done.

    A process has what this one has loaded, and none leaves anything to the next. Exits when one fails, which has
    printed why.
    """
    waiting, working, failed = todo[::-1], {}, []
    while (waiting and not failed) or working:
        while waiting and not failed and len(working) < jobs:
            module = waiting.pop()
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    work(module)
                    code = 0
                except KeyboardInterrupt:
                    pass
                except BaseException as error:
                    print(f"{module.name}: {error}", file=sys.stderr)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            working[pid] = module
        pid, status = os.wait()
        module = working.pop(pid)
        if status:
            failed.append(module.name)
        else:
            yield module
    if failed:
        stop(f"{', '.join(failed)} could not be compiled; see above")


def work(module: Extension) -> int:
    """How long a module takes, roughly: the bytes of its source; the shared one is among the longest."""
    return 1 << 20 if module.name == SHARED else Path(module.sources[0]).stat().st_size


class BuildExtensions(build_ext):
    """Translates and compiles what has changed, on all usable CPUs; long ones first, so that none idles at the end."""

    def run(self) -> None:
        self.for_tree = bool(self.inplace)  # setuptools clears `inplace` while it builds
        if not self.for_tree:
            self.extensions = [module for module in self.extensions if is_product(module.name)]
        super().run()

    def build_extensions(self) -> None:
        self.check_extensions_list(self.extensions)
        os.chdir(ROOT)
        keys = Keys()
        found = {module.name: keys.key(module) for module in self.extensions}
        todo = [module for module in self.extensions if not self.take_built(module, found[module.name])]
        if not todo:
            return
        todo.sort(key=work, reverse=True)
        jobs = int(os.environ.get("TIDEGATE_JOBS") or self.parallel or len(os.sched_getaffinity(0)))
        print(f"compiling {len(todo)} of {len(self.extensions)} modules, {jobs} at a time", flush=True)
        started = told = time.monotonic()
        live = sys.stdout.isatty()
        for name in ("Cython.Build", "Cython.Compiler.Pipeline", "Cython.Compiler.ParseTreeTransforms"):
            import_module(name)  # once, rather than in each process
        translator = Translator(keys)
        translator.read_declarations(todo)
        if len(todo) > FEW:
            translator.load_templates(todo[len(todo) // 4 :])
        for done, module in enumerate(in_processes(partial(translate_and_compile, self, translator), todo, jobs), 1):
            self.take_compiled(module, found[module.name])
            if live:
                print(f"\r\033[K{done} of {len(todo)}: {module.name}", end="", flush=True)
            elif done == len(todo) or time.monotonic() - told > SILENCE:
                told = time.monotonic()
                print(f"{done} of {len(todo)}: {module.name}", flush=True)
        seconds = time.monotonic() - started
        print(f"{chr(10) if live else ''}compiled {len(todo)} modules in {seconds:.0f} s", flush=True)

    def copy_extensions_to_source(self) -> None:
        """Each module is in the tree already: an interrupted build goes on from there."""

    def in_tree(self, module: Extension) -> Path:
        return ROOT / f"{module.name.replace('.', '/')}{sysconfig.get_config_var('EXT_SUFFIX')}"

    def take_built(self, module: Extension, key: str) -> bool:
        """Whether the module stands in the tree as it would be built; a wheel gets a copy of it, without symbols."""
        built, remembered = self.in_tree(module), KEYS / module.name
        if not (built.exists() and remembered.exists() and remembered.read_text() == key):
            return False
        if self.for_tree:
            os.utime(built)  # a checkout of another commit and back makes sources newer
        else:
            target = Path(self.get_ext_fullpath(module.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(built, target)
            strip(target)
        return True

    def take_compiled(self, module: Extension, key: str) -> None:
        compiled = Path(self.get_ext_fullpath(module.name))
        if self.for_tree:
            KEYS.mkdir(parents=True, exist_ok=True)
            os.replace(compiled, self.in_tree(module))  # a process that runs keeps the file that it has mapped
            (KEYS / module.name).write_text(key)
        else:
            strip(compiled)


def strip(module: Path) -> None:
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", str(module)], check=True)


class BuildPython(build_py):
    """A wheel has nothing that is only of use in a checkout: the bench suite stays out.

    The build folder is begun anew: modules of an older version would get into the wheel. The type stubs are written
    from the sources.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [package for package in self.packages if is_product(package)]

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
            subprocess.run([sys.executable, str(ROOT / "tools" / "stubs.py")], check=True)
        super().run()


def is_product(module: str) -> bool:
    """Whether a wheel has a module or package: one of the bench suite or a helper of tests it has not."""
    return module.partition(".")[0] in ("lb", "backend")


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions, "build_py": BuildPython})
