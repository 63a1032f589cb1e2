"""How many small wrong changes of our code do the tests notice? `make mutation`, or

    python tests/assurance/mutation.py statistics --sample 200 --seed 1

changes one operator, number, string, argument or value at a time (mutmut's changes, drawn at random) in a copy of the
code under build/mutation, and runs the test files that reach the changed function until the first test fails. A change
that all of them pass has survived. Errors' texts, texts for people (strings with a blank in them) and `__all__`, which
the linter reads, are not changed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import coverage
import libcst
from mutmut.mutation.file_mutation import Mutation, create_mutations
from statsmodels.stats.proportion import proportion_confint

ROOT = Path(__file__).resolve().parents[2]
OUTER = ("analysis", "model_wrappers", "tasks", "train")
"""Folders of the checkout that are packages inside vlm_backbones."""
LIMIT_SECONDS = 600
"""Of processor time, many times what a stratum's tests take; an hour for those that wait for ever."""
PRELOADED = (
    *("altair", "datasets", "polars", "scipy.stats", "sklearn.linear_model", "statsmodels.api", "torch"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("clip", "llama", "llava")),
)
"""Imported once; the tests of each change run in a fork."""


@dataclass(frozen=True)
class Stratum:
    """Code, as patterns inside the package, and the test files that are to protect it."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


OF_ANALYSIS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "analysis").glob("test_*.py"))]
STRATA = {
    "statistics": Stratum(
        ("analysis/*.py", "analysis/leaderboard/*.py"),
        tuple(path for path in OF_ANALYSIS if "test_report_" not in path),  # pages are no oracle of numbers
    ),
    "report": Stratum(("analysis/report/*.py",), tuple(OF_ANALYSIS)),
    "control": Stratum(
        (
            "_backbone_facts.py",
            "_config_facts.py",
            "_confounds.py",
            "_embedding_rows.py",
            "_fingerprints.py",
            "_label_facts.py",
            "_prompt_facts.py",
            "_reporters.py",
            "_seals.py",
            "_untrained_tokens.py",
            "control.py",
            "data/_bad_rows.py",
            "data/counts.py",
            "data/order.py",
            "hashes.py",
            "trained_runs.py",
            "vlm/answer_ends.py",
            "vlm/whole_weights.py",
        ),
        (
            "tests/data/test_conversations.py",
            "tests/data/test_order_and_features.py",
            "tests/data/test_row_files.py",
            "tests/model_wrappers/test_sealed_checkpoints.py",
            "tests/study/test_confounds.py",
            "tests/study/test_control.py",
            "tests/study/test_estimate.py",
            "tests/study/test_fingerprints.py",
            "tests/study/test_seals.py",
            "tests/study/test_trained_runs.py",
            "tests/study/test_untrained_tokens.py",
            "tests/test_hashes.py",
            "tests/vlm/test_whole_weights.py",
        ),
    ),
}


@dataclass(frozen=True)
class Change:
    """One mutation of one file, not applied yet."""

    path: Path
    module: libcst.Module
    mutation: Mutation

    def code(self) -> str:
        changed = self.module.deep_replace(self.mutation.original_node, self.mutation.mutated_node)
        return libcst.ensure_type(changed, libcst.Module).code


def copy_code(work: Path) -> Path:
    """Copy the checkout's packages to where the import system looks first, one inside the other as in the wheel."""
    package = work / "vlm_backbones"
    shutil.rmtree(package, ignore_errors=True)
    for name, target in [("vlm_backbones", package), *((name, package / name) for name in OUTER)]:
        shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def run_tests(work: Path, tests: Sequence[str], *options: str) -> int:
    """Run tests on the copy, in the processes that they start too; return pytest's exit code, negative if killed."""
    child = multiprocessing.get_context("fork").Process(target=_run_pytest, args=(work, ["-x", *options, *tests]))
    child.start()
    child.join(3600)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid or 0, signal.SIGKILL)
    child.join()
    return child.exitcode or 0


def _run_pytest(work: Path, arguments: list[str]) -> None:
    import pytest

    os.setsid()  # a group of its own, which ends with it
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
    with (work / "pytest.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.path.insert(0, str(work))
    os.environ.update(PYTHONPATH=str(work), PYTHONSAFEPATH="1")
    os._exit(int(pytest.main(["-p", "no:cacheprovider", *arguments])))  # idle workers would be waited for


def measure(work: Path, tests: Sequence[str]) -> None:
    """Write down which test reaches which line; the tests have to pass."""
    os.environ["COVERAGE_FILE"] = str(work / ".coverage")
    if run_tests(work, tests, f"--cov={work / 'vlm_backbones'}", "--cov-context=test", "--cov-report=") != 0:
        sys.exit(f"the tests fail without any change: {work / 'pytest.log'}")
    del os.environ["COVERAGE_FILE"]


def read_measured(work: Path) -> coverage.CoverageData:
    """Return what `measure` wrote down."""
    data = coverage.CoverageData(str(work / ".coverage"))
    data.read()
    return data


def find_changes(path: Path) -> Iterator[Change]:
    """Yield every mutation of a file, but of what it tells people and of `__all__`."""
    code = path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    left_out = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    module, mutations, *_ = create_mutations(str(path), code, coverage_excluded_lines=left_out)
    for mutation in mutations:
        node = mutation.original_node
        if not (isinstance(node, libcst.SimpleString) and " " in node.value):
            yield Change(path, module, mutation)


def reaching_tests(data: coverage.CoverageData, path: Path, line: int) -> list[str]:
    """Return the test files that run the function around a line, or outside of functions any of the module's."""
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    around = [node for node in functions if node.lineno <= line <= (node.end_lineno or 0)][:1]  # the outermost
    lines = {
        number for node in around or functions for number in range(node.body[0].lineno, (node.end_lineno or 0) + 1)
    }
    return sorted({file for number, files in files_by_line(data, path) if number in lines for file in files})


def files_by_line(data: coverage.CoverageData, path: Path) -> list[tuple[int, set[str]]]:
    """Return each line of a file with the test files that run it; importing it has no test."""
    contexts = data.contexts_by_lineno(str(path)).items()
    return [(line, {test.partition("::")[0] for test in tests if test}) for line, tests in contexts]


def first_line(change: Change, code: str) -> int:
    """Return the number of the first line that the change touches."""
    before = change.module.code.splitlines()
    return next(
        number for number, (old, new) in enumerate(zip(before, code.splitlines(), strict=False), 1) if old != new
    )


def is_noticed(work: Path, change: Change, code: str, tests: Sequence[str]) -> bool:
    """Run tests on the changed file; out of time counts as noticed."""
    if not tests:
        return False
    try:
        change.path.write_text(code, encoding="utf-8")
        result = run_tests(work, tests)
    finally:
        change.path.write_text(change.module.code, encoding="utf-8")
    if result > 2:  # neither passed, nor failed, nor could not be imported, nor ran out of time or memory
        sys.exit(f"pytest ended with {result}: {work / 'pytest.log'}")
    return result != 0


def draw(paths: Sequence[Path], size: int, seed: int) -> Iterator[tuple[Change, str]]:
    """Yield changes at random with the changed code, without those that no interpreter would read."""
    changes = [change for path in paths for change in find_changes(path)]
    random.Random(seed).shuffle(changes)
    for change in changes:
        code = change.code()
        try:
            compile(code, change.path, "exec")
        except SyntaxError:
            continue
        yield change, code
        size -= 1
        if size == 0:
            return


def try_stratum(name: str, size: int, seed: int, only: Sequence[int], *, is_measured: bool) -> None:
    """Try a sample of one stratum's changes; print each, its text where it survives, and the share that did not."""
    work = ROOT / "build" / "mutation" / name
    package = copy_code(work)
    if not is_measured:
        measure(work, STRATA[name].tests)
    data = read_measured(work)
    breadth = Counter(
        file for path in data.measured_files() for _, files in files_by_line(data, Path(path)) for file in files
    )
    noticed = []
    paths = sorted(path for pattern in STRATA[name].sources for path in package.glob(pattern))
    for number, (change, code) in enumerate(draw(paths, size, seed)):
        if only and number not in only:
            continue
        line = first_line(change, code)
        reaching = set(reaching_tests(data, change.path, line)).intersection(STRATA[name].tests)
        tests = sorted(reaching, key=breadth.__getitem__)  # the narrowest first
        noticed.append(is_noticed(work, change, code, tests))
        word = "noticed" if noticed[-1] else "survived"
        print(f"{number} {word} {change.path.relative_to(package)}:{line}", flush=True)
        if not noticed[-1]:
            lines = unified_diff(change.module.code.splitlines(), code.splitlines(), n=0, lineterm="")
            print(*(f"    {line}" for line in list(lines)[3:]), sep="\n", flush=True)
    low, high = proportion_confint(sum(noticed), len(noticed), method="wilson")
    share = sum(noticed) / len(noticed)
    print(f"{name}: {sum(noticed)} of {len(noticed)} noticed, {share:.1%}, 95 % interval {low:.1%} to {high:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strata", nargs="+", choices=STRATA)
    parser.add_argument("--sample", type=int, default=100, help="how many changes of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", default=(), help="numbers of the sample to try again")
    parser.add_argument(
        "--measured", action="store_true", help="which test reaches which line is known from the last call"
    )
    given = parser.parse_args()
    os.chdir(ROOT)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # two changes within one tick of the clock would share a file
    sys.dont_write_bytecode = True
    for module in PRELOADED:
        importlib.import_module(module)
    for stratum in given.strata:
        try_stratum(stratum, given.sample, given.seed, given.only, is_measured=given.measured)
