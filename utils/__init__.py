"""How networks are trained, measured, exported and drawn.

Commands, each a module that runs by `python -m`:
    synops              count synaptic operations and energy
    fullspike           certify that only spikes enter the weighted layers
    export              write a trained network as integers, ONNX, NIR or C, and compare
    predict             the classes of images, and pictures of the spikes at them
    convert_checkpoint  weights from one naming to another, and to .safetensors
    plots               learning curves and firing rates of a run; every picture is drawn here
    report              a page about a run, or several side by side
    commands            full-spike: one name for all of them and for training

Training: engine (fit, train_epoch, evaluate), losses, optim, metrics; options and trained (arguments, networks with
their weights); distributed, interrupts, checkpoint, run_folder, log. data reads images and events, measure counts.
"""
