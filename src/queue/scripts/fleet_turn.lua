-- A visitor's turn: the right to act, and with it a request to Fly; who has not the one gets not the other.
-- ARGV: holder ms fresh insist interval age class budget. Returns what fleet_lock.lua says and, where that
-- is MINE, what fly_limit.lua says.
local held = hold({ P, 'hold', ARGV[2], ARGV[3], ARGV[4], ARGV[5] })
if held[1] ~= 'MINE' then return { held } end
return { held, slot({ P, ARGV[6], ARGV[7], 'slot', ARGV[8], ARGV[9] }) }
