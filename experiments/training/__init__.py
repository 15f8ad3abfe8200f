"""Trains the nets of an experiment, from its settings to its results.

- `experiment`: a run: one experiment and its results folder
- `teaching`: the teacher and all students of a run
- `context`: settings, data and inputs shared by the runs of one experiment
- `checks`: checks of methods and nets before training
- `rehearsal`: a traced step of every method, before training
- `recipes`: the builder of states and steps for a net and a method
- `builder`: trainers of a method, whose programs are used for all seeds
- `optimizers`: the optimizer and its learning rate
- `programs`: compiled steps, and whether they fit into memory
- `fitting`: nets trained together, phase by phase
- `loop`: the training loop
- `events`: metrics for TensorBoard
- `interrupts`: Ctrl-C and other signals
- `exits`: exit statuses
- `recording`: the record of a trained net
- `profile`: where the time of a step goes
- `table_runs`: the runs of a table
- `estimate`: the estimated time of a table
"""
