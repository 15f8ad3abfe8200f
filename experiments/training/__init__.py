"""From settings to trained nets.

- `experiment`: a run: one experiment and its results folder
- `teaching`: the teacher and all students of a run
- `context`: what the runs of one experiment share
- `checks`: what can be known to be wrong of settings
- `rehearsal`: a step of every method, traced first
- `recipes`: how a method trains a net: the one builder of states and steps
- `builder`: trainers of a method, whose programs serve all seeds
- `optimizers`: the optimizer and its learning rate
- `programs`: compiled steps, and whether they fit into memory
- `fitting`: nets trained together, phase by phase
- `loop`: the one training loop
- `events`: metrics for TensorBoard
- `interrupts`: Ctrl-C and other signals
- `exits`: exit statuses
- `recording`: the record of a trained net
- `profile`: where the time of a step goes
- `table_runs`: the runs of a table
- `estimate`: what a table will take
"""
