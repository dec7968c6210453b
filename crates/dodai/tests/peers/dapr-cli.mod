// The Dapr CLI, as it is published. What comes second is a later patch of what it names itself.
module dapr-cli

go 1.24.9

require github.com/dapr/cli v1.16.5

require github.com/dapr/components-contrib v1.16.5
