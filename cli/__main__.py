from wmtoolkit.cli.main import entry

entry()
