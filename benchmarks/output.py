"""What the benchmarks share: where figures go, and how a plot over hidden sizes looks."""

import json


def add_arguments(parser):
    """--json and --plot."""
    parser.add_argument("--json", metavar="FILE", help="keep the figures")
    parser.add_argument("--plot", metavar="FILE", help="draw them")
    return parser.parse_args()


def keep(arguments, figures, plot, columns=1):
    """Write and draw figures where the arguments say so; plot(axes, figures), or plot(left, right, figures) of two."""
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(figures, file, indent=2)
    if arguments.plot:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3 + 4 * columns, 4.2), layout="constrained")
        columns = figure.subplots(1, columns, squeeze=False)[0]
        plot(*columns, figures)
        for axes in columns:
            axes.grid(True, which="both", alpha=0.25)
            axes.legend(frameon=False)
        figure.savefig(arguments.plot, dpi=130)


def over_hidden_sizes(axes, sizes, **labels):
    """A logarithmic axis of hidden sizes I = H."""
    sizes = sorted(set(sizes))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="hidden units H = inputs I", **labels)
