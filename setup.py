"""Package metadata. The documented install of training goes through the lock in docker/ (see docs/install.md)."""

from pathlib import Path

from setuptools import find_packages, setup

USE = [
    "flask>=3.0",
    "jinja2>=3.1",
    "matplotlib>=3.8",
    "numpy>=1.24",
    "onnx>=1.17",
    "onnxruntime>=1.20",
    "opencv-python-headless>=4.12",
    "pillow>=12.1",
    "protobuf>=5",
    "tqdm>=4.66",
    "waitress>=3.0.1",
    "werkzeug>=3.0",
]
TRAIN = [
    "gluoncv==0.10.5.post0",
    "mxnet==1.9.1",
    "requests>=2.31",
    "sagemaker-training>=5.1.4",
    "safetensors>=0.4",
    # mxnet and gluoncv import distutils, which setuptools carried until release 81.
    "setuptools<81",
]
# MPICH 4.3 and 5.0 do not let processes join that no mpiexec has started.
HOSTS = ["mpi4py>=4", "mpich>=4.2,<4.3"]
TENSORBOARD = ["tensorboardX>=2.6.5"]
TEST = [
    "atheris>=3.0; python_version >= '3.11' and sys_platform == 'linux' and platform_machine == 'x86_64'",
    "axe-playwright-python",
    "hypothesis",
    "moto>=5.2",
    "mypy>=1.13",
    "playwright>=1.50",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.8",
    "schemathesis>=4",
    "tifffile>=2024.8",
]
FILES = [
    "py.typed",
    "app/openapi.json",
    "app/static/*",
    "app/templates/*",
    "predict/template/*",
    "report/template/*",
    "sagemaker/user_site/*.py",
]

setup(
    name="gluonseg",
    version="0.1.0",
    description="An open, drop-in replacement for SageMaker's built-in Semantic Segmentation algorithm",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"gluonseg": FILES},
    install_requires=USE,
    extras_require={
        "train": TRAIN,
        "hosts": HOSTS,
        "tensorboard": TENSORBOARD,
        "test": [*TRAIN, *HOSTS, *TENSORBOARD, *TEST],
    },
    entry_points={"console_scripts": ["gluonseg=gluonseg.cli:main"]},
)
