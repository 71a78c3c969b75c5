"""How networks are trained, measured and drawn. Nothing in here knows a network: the commands are handed one.

Entry points, on this level:
    launch         what the train.py of every data set calls: from a command line to a finished run
    synops         python -m utils.synops: count synaptic operations and energy
    fullspike      python -m utils.fullspike: certify that only spikes enter the weighted layers
    export         python -m utils.export: write a trained network as integers, ONNX, NIR or C, and compare
    predict        python -m utils.predict: the classes of images, and pictures of the spikes at them
    convert_checkpoint  python -m utils.convert_checkpoint: weights between our and published names, and .safetensors
    plots          python -m utils.plots: learning curves and firing rates of a run; every picture is drawn here
    report         python -m utils.report: a page about a run, or several side by side
    commands       full-spike: one name for all commands

Rooms. None imports an entry point:
    cli            what commands share, and what they do once the command line is read: arguments, networks by name,
                   jobs, training, testing, exporting; imports any room
    runtime        the process and its surroundings: errors, options, seeds, files, hooks; imports no room
    cluster        the processes of a job: launchers, torch.distributed, who holds a run's folder; imports runtime
    data           from files to batches: loading, folders of images, event recordings; imports cluster and runtime
    measure        what a network computes and costs: counters, reports, the certificate; imports runtime
    deploy         other runtimes: writers of C, ONNX and NIR, what runs them, comparisons; imports runtime
    checkpoints    what is kept of a run: written and read safely, checked, gone on with; imports cluster and runtime
    train          the training run: steps, epochs, evaluation; imports data, checkpoints, cluster and runtime
"""
