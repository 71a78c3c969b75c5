"""What --help says is what happens: defaults, names, groups, examples, in one style."""

import dataclasses
import re

import pytest
from test_imports import COMMANDS, TRAINING

from full_spike import models
from support.command import refused
from support.refusals import command as run_here

SCRIPTS = {module.__name__: module for module in (cifar.train, cifar10dvs.train, dvsgesture.train, imagenet.train)}


def help_of(command):
    done = run_here(command, "--help")
    assert done.status == 0
    return done.out


def shown_defaults(script):
    """What --help gives as defaults, by the first long flag of an option, as text."""
    text = re.sub(r"\s+", " ", help_of(script).partition("examples:")[0])
    entries = re.split(r" (?=-[-\w]+(?: [A-Z{]| [a-z]|,))", text)
    found = {}
    for entry in entries:
        flag = re.search(r"--([\w-]+)", entry)
        default = re.findall(r"\(default: ([^)]*)\)", entry)
        if flag and default:
            found[flag[1].replace("-", "_")] = default[-1]
    return found


@pytest.mark.parametrize("script", TRAINING)
def test_the_defaults_of_the_network_are_those_of_the_network(script):
    """The parser imports no network, so it is told."""
    parser = SCRIPTS[script].parser
    network = parser.defaults.network
    known = models.model_options(network.model)
    options = {**known, **network.options(known, network)}
    if options.get("alpha") is None:
        options["alpha"] = models.SURROGATES[options["surrogate"]][1]
    shown = shown_defaults(script)
    for field in dataclasses.fields(network):
        if field.name in options and options[field.name] is not False:
            assert shown[field.name] == str(options[field.name]), field.name
        elif field.name != "model":
            assert field.name not in shown


@pytest.mark.parametrize("script", TRAINING)
def test_no_default_is_none_and_those_of_the_script_are_shown(script):
    text, shown = help_of(script), shown_defaults(script)
    assert "None" not in text
    recipe = SCRIPTS[script].parser.defaults.recipe
    assert shown["epochs"] == str(recipe.epochs)
    assert shown["lr"] == str(recipe.lr)
    assert shown["betas"] == "0.9,0.999"


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_examples_and_one_style_of_flags(command):
    text = help_of(command)
    assert text.startswith(f"usage: python -m {command} ")
    options, _, rest = text.partition("examples:")
    assert re.search(rf"(python -m|-m) {command.replace('.', '[.]')} ", rest)
    assert "_" not in "".join(re.findall(r"(?m)^ +(--?\S+)", options))


@pytest.mark.parametrize("script", TRAINING)
def test_groups_come_in_the_order_of_use(script):
    titles = re.findall(r"(?m)^(\w+)(?: \(.*\))?:$", help_of(script))
    wanted = ["options", "data", "network", "recipe", "run", "test", "machines", "speed"]
    assert [title for title in titles if title in wanted] == wanted


def test_the_released_spellings_are_taken():
    released = "--connect_f IAND --cos_lr_T 7 --zero_init_residual --lr_scheduler cosine --aux_head separate"
    ours = "--connect-f IAND --cos-lr-T 7 --zero-init-residual --lr-scheduler cosine --aux-head separate"
    assert imagenet.train.parser.parse(released.split()) == imagenet.train.parser.parse(ours.split())


def test_imagenets_cosine_follows_the_epochs_unless_it_is_given():
    """As in the other scripts; the published command gives it."""
    assert imagenet.train.parser.parse([]).recipe.period == 320
    assert imagenet.train.parser.parse(["--epochs", "1"]).recipe.period == 1
    assert imagenet.train.parser.parse("--cos_lr_T 320 --epoch 5".split()).recipe.period == 320


def test_a_wrong_option_names_what_is_wrong():
    assert "unrecognized arguments: --lerning-rate" in refused("cifar.train", "--lerning-rate", "1", status=2)
