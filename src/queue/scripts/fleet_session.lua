-- Acquires the fleet lock and, only if that succeeds, a permit for a request to the provider.
-- ARGV: holder ms fresh insist interval age class budget, and the machine that is about to be started, if any:
-- its workers are permitted again. Returns the result of fleet_lock.lua and, if that is MINE, that of rate_limit.lua.
-- Holder names are `<group>:<id>`. One-shot holders never return after their lock expires, so another holder of
-- the same group may take over at once.
local function family(name)
  return string.match(name, '^[^:]+:')
end
local l = redis.call('HMGET', lock, 'holder', 'until')
local kin = l[1] and family(l[1]) and family(l[1]) == family(ARGV[2])
local insist = kin and tonumber(l[2]) <= clock() and '1' or ARGV[5]
local held = hold({ P, 'hold', ARGV[2], ARGV[3], ARGV[4], insist })
if held[1] ~= 'MINE' then return { held } end
local may = slot({ P, ARGV[6], ARGV[7], 'slot', ARGV[8], ARGV[9] })
if may[1] == 'GO' and ARGV[10] then redis.call('ZREM', retired, ARGV[10]) end
return { held, may }
