"""Close every test run with one plain line: N passed, N failed, and N skipped if any were."""
import pytest


def pytest_collection_finish(session: pytest.Session):
    "Tests of a group share what they make; pytest 9.2 with pytest-xdist 3.8 spreads them over workers without a word."
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if hasattr(session.config, "workerinput") and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist does not group tests here: use --dist loadgroup and the versions in constraints.txt")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config):
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    passed, failed = (len(reporter.stats.get(outcome, [])) for outcome in ("passed", "failed"))
    errors = len(reporter.stats.get("error", []))
    skipped = len(reporter.stats.get("skipped", []))
    reporter.write_line(f"{passed} passed, {failed + errors} failed" + (f", {skipped} skipped" if skipped else ""))
