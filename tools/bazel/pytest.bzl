"""A py_test that runs every test_*.py of its package under pytest."""

def pytest_suite(name, deps, data = []):
    """Declares the test, or nothing for a package without tests.

    Args:
        name: the target's name.
        deps: what the tests import.
        data: files that they read.
    """
    if not native.glob(["test_*.py"]):
        return
    native.py_test(
        name = name,
        size = "large",
        srcs = ["//tools/bazel:pytest_main.py"] + native.glob(["*.py"]),
        args = ["$(location %s)" % f for f in native.glob(["test_*.py"])],
        data = data,
        main = "//tools/bazel:pytest_main.py",
        deps = deps,
    )
