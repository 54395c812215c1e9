"""What `tenshot doctor` looks at. Each check reads, writes nothing, executes nothing, and ends in a `Finding`.

packages.py      what is installed; needs nothing but Python
machine.py       processors, memory, the embedded sources
run_folder.py    a run's folder, with journals.py
model_file.py    a model file, or another program's checkpoint
pictures.py      images to adapt to
inspection.py    which of these a path is, decided by its content
"""
