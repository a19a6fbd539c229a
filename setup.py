"""gserver-tcp: the packages gserver and loadtests. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "gserver/__init__.py").read_text("utf-8"), re.M)[1]

# The least versions are those of lowest.txt, with which `tox -e lowest` runs the tests.
# What `loadtests sample` needs, on the machine of a server.
SAMPLER = ["psutil>=5.9.1"]
LOADTESTS = [
    *SAMPLER,
    "locust>=2.46.1",
    "hdrhistogram>=0.10.3",
    "scipy>=1.13",
    "altair>=6",
    "vl-convert-python>=1.8",
    "jinja2>=3.1.2",
    "rich>=13",
]
# What the server uses if it is there: names in ps, and changed files as soon as they change.
EXTRAS = ["setproctitle>=1.3", "watchfiles>=0.21"]
# What `metrics_bind` needs.
METRICS = ["prometheus-client>=0.16"]
# What `bus = "redis://..."` needs.
REDIS = ["redis>=5.1"]
# What `gserverctl top` needs.
TOP = ["rich>=13"]
# What `make docs` needs.
DOCS = ["sphinx>=8.2", "myst-parser>=4", "furo>=2025.7.19", "sphinx-copybutton>=0.5.2"]
TEST = [
    *LOADTESTS,
    *EXTRAS,
    *METRICS,
    *REDIS,
    *TOP,
    "pytest>=9",
    "pytest-xdist>=3.8",
    "hypothesis>=6.100",
    "selenium>=4.20",
    "trustme>=1.2",
    "pyyaml>=6",
    "sslyze>=6.1; python_version < '3.14'",
    "mypy>=1.13",
    "ruff>=0.8",
    "types-psutil",
    "types-gevent",
    "twisted>=24.3",
    "aiosmtpd>=1.4",
    "setuptools>=77.0.1",
    # Wheels for CPython 3.11 to 3.14, on x86-64 only.
    "atheris>=3; python_version < '3.15' and platform_machine == 'x86_64'",
]


PICTURES = r"(?:^[^\n]+\n)*^[^\n]+:\n\n(?:^(?:<img |!\[)[^\n]*\n)+\n?|^(?:<img |!\[)[^\n]*\n"
RELATIVE_LINK = r"\[([^\]]*)\]\((?!https?://)[^)]*\)"


def long_description() -> str:
    """README.md for an index page, where a relative link leads nowhere.

    Of such a link its text stays. Pictures are left out, with the paragraph that announces them; code stays as it is.
    """
    readme = (HERE / "README.md").read_text("utf-8")
    parts = re.split(r"(^```.*?^```\n)", readme, flags=re.M | re.S)
    for index in range(0, len(parts), 2):  # between blocks of code
        without_pictures = re.sub(PICTURES, "", parts[index], flags=re.M)
        parts[index] = re.sub(RELATIVE_LINK, r"\1", without_pictures)
    return "".join(parts)


setup(
    name="gserver-tcp",
    version=VERSION,
    description="The application server for raw TCP in Python, with the load tests that prove it",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords="tcp server gevent prefork socket protocol framing load-testing locust latency",
    python_requires=">=3.11",
    packages=find_packages(include=["gserver", "gserver.*", "loadtests", "loadtests.*"]),
    # The path of every message; without a compiler it stays in Python.
    ext_modules=[Extension("gserver._native", ["gserver/_native.c"], optional=True)],
    package_data={
        "gserver": ["py.typed", "_native.pyi"],
        "gserver.metrics": ["*.html"],
        "loadtests": ["py.typed", "servers/peers/*.js", "servers/peers/*.go", "servers/peers/*.c"],
        "loadtests.report": ["templates/*"],
    },
    install_requires=["gevent>=26.4", "msgspec>=0.19"],
    extras_require={
        "extras": EXTRAS,
        "metrics": METRICS,
        "redis": REDIS,
        "top": TOP,
        "sampler": SAMPLER,
        "loadtests": LOADTESTS,
        "test": TEST,
        "docs": DOCS,
    },
    entry_points={
        "console_scripts": [
            "gserver = gserver.__main__:entry_point",
            "gserverctl = gserver.control.cli:entry_point",
            "loadtests = loadtests.cli:entry_point",
        ],
        "pytest11": ["gserver = gserver.testing.pytest_plugin"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)),
        "Topic :: Internet",
        "Topic :: Software Development :: Testing :: Traffic Generation",
    ],
)
