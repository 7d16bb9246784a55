"""A plugin file for the tests: short names for the models of tests/family.py, made as those of published models are."""

from plad_bench import hookimpl
from plad_bench_plugins.students import hub as students
from plad_bench_plugins.students._published import CatalogueEntry
from plad_bench_plugins.teachers import hub as teachers


@hookimpl
def plad_bench_students():
    yield students._alias("toy-30m", CatalogueEntry("toy/Toy-30M", "toy-300m"))
    yield students._alias("toy-100m", CatalogueEntry("toy/Toy-100M", "toy-300m-instruct"))


@hookimpl
def plad_bench_teachers():
    yield teachers._alias("toy-300m", CatalogueEntry("toy/Toy-300M"))
    yield teachers._alias("toy-300m-instruct", CatalogueEntry("toy/Toy-300M-Instruct"))
