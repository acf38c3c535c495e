"""Running an exported file in its runtime with a given number of threads, the same way on each side."""

import shutil


def runner(path, image, threads, folder):
    """A function that predicts an image.

    Args:
        path: a `.onnx` or `.xml` file.
        image: array, the input.
        threads: int.
        folder: str, directory that holds the file; deleted, since the runtime has read it.

    Returns:
        The function, without arguments, returning the mask.
    """
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: image}
        shutil.rmtree(folder)
        return lambda: session.run(None, feed)[0]
    import openvino

    compiled = openvino.Core().compile_model(
        str(path), "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    )
    shutil.rmtree(folder)
    return lambda: compiled(image)[0]
