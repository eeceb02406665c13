"""Results as pictures, by matplotlib. Figure objects only, never pyplot: nothing global is opened or left behind."""
