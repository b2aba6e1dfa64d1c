"""What a processor and the machine round it draw, when nothing measures it.

`names` and the models are arithmetic; `tables` reads the package's data, `facts` the machine's
files; `host` puts together what was found and what had to be assumed.
"""
