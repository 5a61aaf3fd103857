"""Packaging from settings.ini: `X_requirements` there becomes the extra `X`."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
config = parser["DEFAULT"]

extras = {
    key.removesuffix("_requirements"): value.split()
    for key, value in config.items()
    if key.endswith("_requirements")
}
readme = here / "README.md"

setup(
    name=config["lib_name"],
    version=config["version"],
    description=config["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    author=config["author"],
    keywords=config["keywords"].split(),
    packages=find_packages(include=[config["lib_path"], f"{config['lib_path']}.*"]),
    include_package_data=True,
    package_data={config["lib_path"]: ["data/*", "data/*/*"]},
    python_requires=f">={config['min_python']}",
    install_requires=config["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": config.get("console_scripts", "").split(),
        "nbdev": [f"{config['lib_path']}={config['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
