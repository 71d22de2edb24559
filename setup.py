"""Build of wmtoolkit: the root folders envs, agents, cli and benchmarks become wmtoolkit.envs and so on.

So nothing with a generic name lands in site-packages, and the folders stay where a reader looks for them.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT_FOLDERS = ("envs", "agents", "cli", "benchmarks")

package_dir = {"wmtoolkit": "wmtoolkit", **{f"wmtoolkit.{folder}": folder for folder in ROOT_FOLDERS}}
packages = ["wmtoolkit", *(f"wmtoolkit.{name}" for name in find_packages("wmtoolkit"))]
for folder in ROOT_FOLDERS:
    packages += [f"wmtoolkit.{folder}", *(f"wmtoolkit.{folder}.{name}" for name in find_packages(folder))]

setup(
    name="wmtoolkit",
    version="0.1.0",
    description="Any-order masked world models of MiniGrid/BabyAI with LLaDA2, as Gymnasium environments",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir=package_dir,
    packages=packages,
    package_data={
        "wmtoolkit": ["py.typed", "checkpoints/*/*", "configs/**/*.yaml", "dfactory/*.yaml"],
        "wmtoolkit.benchmarks": ["templates/*"],
    },
    install_requires=[
        "accelerate>=1.10,<2",
        "click>=8.1",
        "gymnasium>=1.4,<2",
        "h5py>=3.10",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "minari[hdf5]>=0.5.3,<0.6",
        "minigrid>=3.0,<4",
        "numpy>=1.26,<3",
        "omegaconf>=2.3,<3",
        "pillow>=10",
        "rich>=13",
        "safetensors>=0.4.3",
        "scipy>=1.11",
        "tensorboard>=2.15",
        "torch>=2.9,<3",
        "transformers>=5.20,<6",
    ],
    extras_require={
        "sb3": ["stable-baselines3>=2.9,<3", "sb3-contrib>=2.9,<3"],
        "video": ["imageio-ffmpeg>=0.4"],
        "lora": ["peft>=0.17"],
        "wandb": ["wandb>=0.20"],
        "dev": [
            "diffusers>=0.40",
            "hypothesis>=6",
            "mypy>=1.15",
            "peft>=0.17",
            "pytest>=8",
            "pytest-timeout>=2",
            "pytest-xdist>=3",
            "ruff>=0.6",
        ],
    },
    entry_points={"console_scripts": ["wmtool = wmtoolkit.cli.main:entry"]},
)
