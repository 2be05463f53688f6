"""Networks of torchvision and timm: their names, files, classes and normalisation, and what folding keeps."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import pytest
import torch
import torchvision.models as library
from torch import Tensor, nn

from fixtures.errors import InputError
from fixtures.models import Problem, family_named
from fixtures.models.parts.classification import IMAGENET_MEAN, IMAGENET_STD, Classification
from fixtures.models.timm import Timm
from fixtures.models.torchvision import Torchvision
from fixtures.spec import Variant
from fixtures.subject import locate_checkpoint
from fixtures.weights.bundle import Bundle
from fixtures.weights.checkpoint import require_exact_keys

TORCHVISION, TIMM = Torchvision(), Timm()
FAMILIES: dict[str, Classification] = {"torchvision": TORCHVISION, "timm": TIMM}
CHECKPOINTS = "torch_cache/hub/checkpoints"
NETWORKS = [
    ("torchvision", "squeezenet1_0"),
    ("torchvision", "mobilenet_v3_small"),
    ("torchvision", "resnet18"),
    ("torchvision", "vit_b_16"),
    ("timm", "resnet10t"),
    ("timm", "vit_tiny_patch16_224"),
]


def variant_of(name: str, model: str, **changes: Any) -> Variant:
    weights = "visual/timm/model.safetensors" if name == "timm" else None
    facts: dict[str, Any] = {"height": 224, "width": 224, "weights": weights, **changes}
    return Variant(name="v", family=name, model=model, **facts)


def on_meta(name: str, model: str, classes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return FAMILIES[name].create(variant_of(name, model), classes).state_dict()


def shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def unread() -> NoReturn:
    raise AssertionError("the weights may not be read")


# --- names ---


def test_families_are_found_by_name() -> None:
    assert isinstance(family_named("torchvision"), Torchvision)
    assert isinstance(family_named("timm"), Timm)


@pytest.mark.parametrize(
    ("name", "model", "changes", "problem"),
    [
        (
            "torchvision",
            "resnet19",
            {},
            Problem(
                "model",
                "resnet19",
                "a classification network of torchvision, such as resnet50",
                "`torchvision.models.list_models()` names them.",
            ),
        ),
        (
            "timm",
            "resnet19",
            {},
            Problem("model", "resnet19", "a network of timm, such as resnet18", "`timm.list_models()` names them."),
        ),
        (
            "timm",
            "resnet18",
            {"weights": None},
            Problem(
                "weights",
                None,
                "a file under the models root",
                "Add `weights: FILE`, such as visual/timm/model.safetensors.",
            ),
        ),
        (
            "torchvision",
            "resnet18",
            {"tower": "image"},
            Problem("tower", "image", "none for torchvision", "Remove it."),
        ),
        (
            "timm",
            "resnet18",
            {"height": 16},
            Problem("height", 16, "any number of pixels from 32 on for timm", "Write 32, for example."),
        ),
    ],
    ids=["torchvision", "timm", "no weights", "tower", "size"],
)
def test_unusable_variant_is_a_problem(name: str, model: str, changes: dict[str, Any], problem: Problem) -> None:
    assert FAMILIES[name].problem(variant_of(name, model, **changes)) == problem


@pytest.mark.parametrize(
    "model", ["raft_small", "fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "quantized_resnet50", "r3d_18", "ResNet18"]
)
def test_torchvision_networks_of_other_tasks_are_unknown(model: str) -> None:
    problem = TORCHVISION.problem(variant_of("torchvision", model))
    assert problem
    assert problem.key == "model"


@pytest.mark.parametrize(("name", "model"), [*NETWORKS, ("timm", "resnet50.a1_in1k")])
def test_known_network_is_no_problem(name: str, model: str) -> None:
    width = 225 if model == "vit_b_16" else 300
    assert FAMILIES[name].problem(variant_of(name, model, height=225, width=width)) is None


@pytest.mark.parametrize("model", ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k", "", "."])
def test_hub_names_are_refused(model: str) -> None:
    problem = TIMM.problem(variant_of("timm", model))
    assert problem
    assert problem.key == "model"


@pytest.mark.parametrize("model", ["resnet50.nonsense", "resnet50."])
def test_unknown_tag_of_timm_is_a_problem(model: str) -> None:
    problem = TIMM.problem(variant_of("timm", model))
    assert problem
    assert problem.key == "model"


def test_tokens_for_an_image_network_are_a_problem() -> None:
    for name, family in FAMILIES.items():
        problem = family.problem(variant_of(name, "resnet18", height=None, width=None, tokens=77))
        assert problem
        assert problem.key == "tokens"


# --- files ---


@pytest.mark.parametrize(
    ("model", "file", "glob"),
    [
        ("resnet50", "resnet50-11ad3fa6.pth", "resnet50-*.pth"),
        ("resnet18", "resnet18-f37072fd.pth", "resnet18-*.pth"),
        ("vit_b_16", "vit_b_16-c867db91.pth", "vit_b_16-*.pth"),
        ("mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth", "mobilenet_v3_small-*.pth"),
    ],
)
def test_torchvision_official_files(model: str, file: str, glob: str) -> None:
    checkpoint = TORCHVISION.checkpoint(variant_of("torchvision", model))
    assert (checkpoint.file, checkpoint.glob) == (f"{CHECKPOINTS}/{file}", f"{CHECKPOINTS}/{glob}")
    assert checkpoint.layout == "state_dict"


def test_torchvision_files_are_of_one_network_each() -> None:
    models = library.list_models(module=library)
    checkpoints = [TORCHVISION.checkpoint(variant_of("torchvision", model)) for model in models]
    files = [checkpoint.file for checkpoint in checkpoints]
    assert len(set(files)) == len(files) >= 80
    for checkpoint in checkpoints:
        assert checkpoint.glob
        # Another network's file is never taken for this one's.
        assert [file for file in files if fnmatch.fnmatchcase(file, checkpoint.glob)] == [checkpoint.file]
        assert PurePosixPath(checkpoint.file).suffix == ".pth"


def test_older_official_file_is_found(tmp_path: Path) -> None:
    older = tmp_path / CHECKPOINTS / "resnet50-0676ba61.pth"
    older.parent.mkdir(parents=True)
    older.touch()
    assert locate_checkpoint(variant_of("torchvision", "resnet50"), Bundle(tmp_path)) == older


def test_timm_needs_weights_named_by_the_spec(tmp_path: Path) -> None:
    variant = variant_of("timm", "resnet18", weights=None)
    assert FAMILIES["timm"].checkpoint(variant) is None
    with pytest.raises(InputError, match=r"variant v: weights of resnet18=not named, .* Add `weights: FILE`"):
        locate_checkpoint(variant, Bundle(tmp_path))


# --- classes ---


@pytest.mark.parametrize("classes", [2, 1001])
@pytest.mark.parametrize(("name", "model"), NETWORKS)
def test_classes_follow_from_weights(name: str, model: str, classes: int) -> None:
    stored = shapes_of(on_meta(name, model, classes))
    resolved = FAMILIES[name].resolved(variant_of(name, model), lambda: stored)
    assert resolved.classes == classes
    assert FAMILIES[name].output_shape(resolved, 3) == (3, classes)
    with torch.device("meta"):
        built = FAMILIES[name].build(resolved)
        assert tuple(built.eval()(torch.zeros(2, 3, 224, 224)).shape) == (2, classes)
    assert shapes_of(built.state_dict()) == stored


@pytest.mark.parametrize(("name", "model"), NETWORKS)
def test_weights_without_a_head_leave_classes_open(name: str, model: str) -> None:
    stored, other = (shapes_of(on_meta(name, model, classes)) for classes in (7, 8))
    body = {key: shape for key, shape in stored.items() if shape == other[key]}
    assert 0 < len(body) < len(stored)
    variant = variant_of(name, model)
    for shapes in (body, {}, {"head.of.something.else": (12,)}):
        assert FAMILIES[name].resolved(variant, partial(dict, shapes)) == variant
    assert FAMILIES[name].output_shape(variant, 1) == (1, 1000)


def test_heads_that_disagree_leave_classes_open() -> None:
    stored = shapes_of(on_meta("torchvision", "resnet18", 7)) | {"fc.bias": (8,)}
    variant = variant_of("torchvision", "resnet18")
    assert TORCHVISION.resolved(variant, lambda: stored) == variant
    scalar = shapes_of(on_meta("torchvision", "resnet18", 7)) | {"fc.bias": ()}
    assert TORCHVISION.resolved(variant, lambda: scalar).classes == 7


@pytest.mark.parametrize(("name", "model"), NETWORKS)
def test_classes_of_the_spec_win_without_reading_weights(name: str, model: str) -> None:
    variant = variant_of(name, model, classes=12)
    assert FAMILIES[name].resolved(variant, unread) is variant


@pytest.mark.parametrize(("name", "model"), NETWORKS)
def test_weights_of_other_classes_are_refused(name: str, model: str) -> None:
    stored = on_meta(name, model, 365)
    with torch.device("meta"):
        module = FAMILIES[name].build(variant_of(name, model, classes=12))
    with pytest.raises(InputError, match=r"a\.pth: keys=2 shapes differ, first '.*' \(365,.* for \(12,"):
        require_exact_keys(Path("a.pth"), stored, module)


def test_regnet_is_built_on_meta() -> None:
    assert shapes_of(on_meta("torchvision", "regnet_y_400mf", 5))["fc.weight"] == (5, 440)


def test_torchvision_vit_takes_only_squares() -> None:
    problem = TORCHVISION.problem(variant_of("torchvision", "vit_b_16", height=224, width=256))
    assert problem
    assert (problem.key, problem.rule) == ("width", "224, as its height")


def test_vit_h_14_has_positions_of_its_official_size() -> None:
    size = library.ViT_H_14_Weights.DEFAULT.transforms().crop_size[0]
    with torch.device("meta"):
        network = TORCHVISION.build(variant_of("torchvision", "vit_h_14", height=size, width=size))
    keys = shapes_of(network.state_dict())
    side = library.ViT_H_14_Weights.DEFAULT.transforms().crop_size[0] // 14
    assert keys["encoder.pos_embedding"] == (1, side**2 + 1, 1280)


# --- normalization ---


@pytest.mark.parametrize(
    ("name", "model", "interpolation", "mean", "std"),
    [
        ("torchvision", "resnet50", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        ("torchvision", "vit_b_16", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        ("torchvision", "swin_t", "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        ("torchvision", "efficientnet_b0", "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        ("timm", "vit_tiny_patch16_224", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("timm", "resnet50", "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        ("timm", "tf_efficientnet_b0", "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        ("timm", "tf_efficientnet_b0_ns", "bicubic", IMAGENET_MEAN, IMAGENET_STD),  # renamed since
        ("timm", "inception_v3", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("timm", "vgg11", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        ("timm", "resnet50.tv_in1k", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_normalization_is_that_of_training(
    name: str, model: str, interpolation: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    normalization = FAMILIES[name].normalization(variant_of(name, model))
    assert (normalization.mean, normalization.std, normalization.interpolation) == (mean, std, interpolation)
    assert FAMILIES[name].tower(variant_of(name, model)).modality.normalization == normalization


def test_normalization_of_every_torchvision_network() -> None:
    for model in library.list_models(module=library):
        preset = library.get_model_weights(model).DEFAULT.transforms()
        normalization = TORCHVISION.normalization(variant_of("torchvision", model))
        assert (list(normalization.mean), list(normalization.std)) == (list(preset.mean), list(preset.std)), model
        assert normalization.interpolation == preset.interpolation.value, model


@pytest.mark.parametrize("model", ["googlenet", "inception_v3"])
def test_ported_weights_transform_their_input(model: str) -> None:
    """Torchvision's weights of these two were trained elsewhere, on inputs in −1 … 1; their forward converts."""
    with torch.device("meta"):
        network = TORCHVISION.build(variant_of("torchvision", model))
    assert isinstance(network, library.GoogLeNet | library.Inception3)
    assert network.transform_input


# --- folding ---


@pytest.fixture
def one_thread() -> Iterator[None]:
    """These layers are small: several threads are slower than one on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomised(name: str, model: str) -> nn.Module:
    """In float64, its batch norms with statistics that are not those of a new one."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = FAMILIES[name].create(variant_of(name, model), 10)
    assert not dict(network.named_buffers()).keys() - network.state_dict().keys()
    network = network.double().to_empty(device="cpu").eval().requires_grad_(False)
    for key, value in network.state_dict().items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1)
    return network


FOLDED = [
    ("torchvision", "resnet18", 64),
    ("torchvision", "mobilenet_v3_small", 64),
    ("torchvision", "densenet121", 64),
    ("torchvision", "googlenet", 64),
    ("torchvision", "inception_v3", 75),  # the least that its pooling leaves anything of
    ("torchvision", "efficientnet_b0", 64),
    ("timm", "resnet10t", 64),
    ("timm", "resnetv2_18", 64),
    pytest.param("timm", "repvit_m0_9", 64),
    pytest.param("timm", "lambda_resnet26t", 64),
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "model", "size"), FOLDED)
def test_folding_keeps_the_function(name: str, model: str, size: int) -> None:
    network = randomised(name, model)
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    with torch.inference_mode():
        expected = network(images)
        before = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        folded = FAMILIES[name].finalize(copy.deepcopy(network), variant_of(name, model, height=size, width=size))
        answer = folded.double()(images)
    after = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert after < before
    assert tuple(answer.shape) == (1, 10)
    assert expected.std() > 0
    # Folded weights are rounded to float32 once.
    assert ((answer - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("model", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_keys(model: str) -> None:
    assert any("aux" in key.lower() for key in on_meta("torchvision", model, 7))


def test_timm_transformer_takes_another_size() -> None:
    variant = variant_of("timm", "vit_tiny_patch16_224", height=64, width=96, classes=10)
    torch.manual_seed(0)
    network = TIMM.finalize(TIMM.build(variant).eval(), variant)
    with torch.inference_mode():
        assert tuple(network(torch.zeros(1, 3, 64, 96)).shape) == (1, 10)


@pytest.mark.usefixtures("one_thread")
def test_weights_that_are_standardised_in_every_call_are_folded() -> None:
    network = randomised("timm", "test_nfnet")
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = network(images)
        folded = TIMM.finalize(copy.deepcopy(network), variant_of("timm", "test_nfnet", height=64, width=64))
        answer = folded.double()(images)
    assert not any(hasattr(module, "gain") and isinstance(module, nn.Conv2d) for module in folded.modules())
    assert ((answer - expected).norm() / expected.norm()).item() < 1e-12
