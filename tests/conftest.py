"""Close every test run with one plain line: N passed, N failed, and N skipped if any were."""
import pytest


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config):
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    passed, failed = (len(reporter.stats.get(outcome, [])) for outcome in ("passed", "failed"))
    errors = len(reporter.stats.get("error", []))
    skipped = len(reporter.stats.get("skipped", []))
    reporter.write_line(f"{passed} passed, {failed + errors} failed" + (f", {skipped} skipped" if skipped else ""))
