from wmtoolkit.cli.main import main

main(prog_name="wmtool")
