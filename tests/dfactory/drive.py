"""Runs the task's ``main`` for many lists of options in one process; prints what each ended with, as JSON."""

import json
import sys
import traceback

sys.path[:0] = ["tasks"]
import train_any_order_babyai as task  # noqa: E402

ended = []
for options in json.load(sys.stdin):
    sys.argv = ["train_any_order_babyai.py", "configs/sft/llada2_mini_any_order_babyai.yaml", *options]
    try:
        task.main()
        ended.append("done")
    except SystemExit as stop:
        ended.append(str(stop))
    except Exception:
        ended.append(traceback.format_exc())
print(json.dumps(ended))
