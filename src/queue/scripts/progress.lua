-- Records the progress of an encode, and tells it to those who watch. ARGV: id, epoch, percent, and the entity tag of the
-- job's input that the attempt reads, or ''. Returns OK or LOST.
local id, epoch, percent, version = ARGV[2], ARGV[3], ARGV[4], ARGV[5] or ''
if not redis.call('ZSCORE', leases, id .. ':' .. epoch) then return { 'LOST' } end
event(id, 'running', 'progress', percent, 'epoch', epoch)
redis.call('HSET', status(id), 'progress', percent, unpack(version ~= '' and { 'input_version', version } or {}))
return { 'OK' }
