from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("models", "utils", "cifar", "cifar10dvs", "dvsgesture", "imagenet", "weights")  # beside full_spike/
FOUND = find_packages(include=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")])

setup(
    name="full-spike-aap",
    version="0.1.0",
    description="Full-spike neural networks trained with the Auxiliary Accumulation Pathway (arXiv:2301.11929)",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11.4",  # for the filters of tarfile
    # `models/` is installed as `full_spike.models`, and so on: no name of another project's is taken
    packages=["full_spike", *(f"full_spike.{name}" for name in [*FOUND, "weights"])],
    package_dir={"full_spike": "full_spike"} | {f"full_spike.{name}": name for name in FOLDERS},
    package_data={
        **{f"full_spike.{name}": ["*.yaml"] for name in FOLDERS},
        "full_spike": ["py.typed"],
        "full_spike.utils": ["**/*.html", "**/*.c"],
        "full_spike.weights": ["**/*"],
    },
    install_requires=[
        "torch>=2.11",  # tested with 2.11 and 2.14
        "torchvision>=0.26",
        "spikingjelly>=2.0.0",
        "tqdm>=4.60",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "tensorboard>=2.14",
        "PyYAML>=6",
        "safetensors>=0.4",
        "Jinja2>=3",
    ],
    entry_points={"console_scripts": ["full-spike=full_spike.utils.commands:main"]},
    extras_require={
        "synops": ["syops==0.0.5", "progress>=1.6"],
        "export": ["onnx>=1.19", "onnxruntime>=1.23"],
        "nir": ["nir>=1.0.8", "nirtorch>=2.6"],
        "parquet": ["pyarrow>=16"],
        "test": ["pytest>=8", "pytest-xdist>=3"],
        "lint": ["ruff", "mypy"],
    },
)
