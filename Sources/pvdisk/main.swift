print("pvdisk")
