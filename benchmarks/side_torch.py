"""What segmentation_models.pytorch does: eagerly, in channels_last, and through `torch.compile`. Imported by `worker.py`."""

from pathlib import Path

import numpy as np

FILTERS = (256, 128, 64, 32, 16)
NAMES = {"mobilenetv2": "mobilenet_v2"}


def prepare(task):
    """A function to time, and facts about it; as `side_keras.prepare`."""
    import torch

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    if task["work"] == "data":
        return _pipeline(task), {}
    model = _build(task["encoder"])
    facts = {"parameters": sum(weight.numel() for weight in model.parameters())}
    # Keras counts the running statistics of BatchNorm, too.
    facts["parameters"] += sum(
        statistic.numel() for name, statistic in model.named_buffers() if "running" in name
    )
    if task["work"] == "start":
        return lambda: None, facts
    return _WORK[task["work"]](model, task), facts


def _build(encoder):
    """The architecture of tl-unet's side: no centre block, a 1x1 head."""
    import segmentation_models_pytorch as smp
    import torch

    depth = 4 if encoder == "vgg16" else 5
    model = smp.Unet(
        NAMES.get(encoder, encoder),
        encoder_depth=depth,
        encoder_weights=None,
        decoder_channels=FILTERS[:depth],
        classes=1,
        activation="sigmoid",
    )
    model.decoder.center = torch.nn.Identity()
    model.segmentation_head[0] = torch.nn.Conv2d(FILTERS[depth - 1], 1, 1)
    return model


def _laid_out(model, image, task):
    """Model and image in the memory layout of the variant; `torch.compile` is at its best in channels_last, too."""
    import torch

    if task["variant"]:
        model = model.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    return model, image


def _compiled(model, task):
    import torch

    return torch.compile(model) if task["variant"] == "compile" else model


def _step(model, task):
    import torch

    random = np.random.default_rng(0)
    shape = (task["size"], task["size"])
    images = torch.tensor(random.uniform(-2, 2, (task["batch"], 3, *shape)).astype("float32"))
    masks = torch.tensor((random.uniform(size=(task["batch"], 1, *shape)) > 0.5).astype("float32"))
    model, images = _laid_out(model, images, task)
    model.train()
    if task["work"] == "frozen":
        model.encoder.eval()
        for weight in model.encoder.parameters():
            weight.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-4)
    run = _compiled(model, task)
    loss_of = torch.nn.BCELoss()

    def step():
        optimizer.zero_grad()
        loss = loss_of(run(images), masks)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _image(task):
    import torch

    shape = (task["batch"], 3, task["size"], task["size"])
    return torch.tensor(np.random.default_rng(0).uniform(-2, 2, shape).astype("float32"))


def _latency(model, task):
    import torch

    model, image = _laid_out(model.eval(), _image(task), task)
    run = _compiled(model, task)

    def predict():
        with torch.inference_mode():
            return run(image).numpy()

    return predict


def _exported(model, task):
    """Writes the model's file and an image into the folder of the task, for `exported.runner`."""
    import torch

    image, path = _image(task), Path(task["folder"], "unet.onnx")
    torch.onnx.export(model.eval(), (image,), str(path))
    np.save(path.with_name("image.npy"), image.numpy())
    if task["work"] != "onnxruntime":
        import openvino

        converted = openvino.convert_model(str(path))
        if task["work"] == "int8":
            import nncf

            random = np.random.default_rng(0)
            images = random.uniform(-2, 2, (8, *image.shape)).astype("float32")
            converted = nncf.quantize(converted, nncf.Dataset(list(images)))
        openvino.save_model(converted, path.with_suffix(".xml"), compress_to_fp16=False)
    return lambda: None


def _pipeline(task):
    import pictures
    import torch
    from PIL import Image

    folder = pictures.write(64)
    files = sorted((folder / "images").iterdir())
    size = (task["size"], task["size"])

    class Pictures(torch.utils.data.Dataset):
        """The loop that the library's examples have: Pillow, NumPy, channels first."""

        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            image = Image.open(files[index]).convert("RGB").resize(size, Image.Resampling.BILINEAR)
            mask = Image.open(folder / "masks" / f"{files[index].stem}.png")
            mask = mask.resize(size, Image.Resampling.NEAREST)
            pixels = np.asarray(image, "float32").transpose(2, 0, 1)
            return torch.tensor(pixels), torch.tensor(np.asarray(mask, "float32")[None] / 255)

    loader = torch.utils.data.DataLoader(
        Pictures(), batch_size=task["batch"], num_workers=task["threads"], persistent_workers=True
    )
    return lambda: sum(len(image) for image, _ in loader)


_WORK = {
    "step": _step,
    "frozen": _step,
    "latency": _latency,
    "onnxruntime": _exported,
    "openvino": _exported,
    "int8": _exported,
}
